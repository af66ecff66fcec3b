//! `/v1/models`, from which clients choose a model.

use std::sync::Arc;

use anyhow::{Context, ensure};
use serde_json::Value;

use super::check::Check;
use super::expect::{equal, list, number, text};
use super::target::Target;

pub fn checks() -> Vec<Check> {
    vec![
        Check::new("GET /v1/models is a list of models", listed),
        Check::new("GET /v1/models/{id} is one of them", one),
        Check::new("an unknown model is 404 with an error object", unknown),
    ]
}

async fn models(target: &Target) -> anyhow::Result<Vec<Value>> {
    let body = target.send(target.get("/v1/models")).await?.good_json()?;
    equal(&body, "object", "list")?;
    let models = list(&body, "data")?.to_vec();
    ensure!(!models.is_empty(), "the list is empty");
    Ok(models)
}

fn is_model(model: &Value) -> anyhow::Result<()> {
    text(model, "id")?;
    equal(model, "object", "model")?;
    number(model, "created")?;
    text(model, "owned_by")?;
    Ok(())
}

async fn listed(target: Arc<Target>) -> anyhow::Result<()> {
    models(&target).await?.iter().try_for_each(is_model)
}

async fn one(target: Arc<Target>) -> anyhow::Result<()> {
    for model in models(&target).await? {
        let id = text(&model, "id")?;
        let path = format!("/v1/models/{}", in_a_path(id));
        let found = target.send(target.get(&path)).await?.good_json()?;
        is_model(&found)?;
        equal(&found, "id", id)?;
    }
    Ok(())
}

/// Encodes a model id for a path. Some ids are names of repositories and contain a slash.
fn in_a_path(id: &str) -> String {
    let byte = |byte: u8| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            char::from(byte).to_string()
        } else {
            format!("%{byte:02X}")
        }
    };
    id.bytes().map(byte).collect()
}

async fn unknown(target: Arc<Target>) -> anyhow::Result<()> {
    let reply = target
        .send(target.get("/v1/models/no-such-model-anywhere"))
        .await?;
    reply.ensure_status(404)?;
    let body = reply.json()?;
    let error = body["error"].as_object();
    error.context("`error` is not an object")?;
    text(&body["error"], "message")?;
    equal(&body["error"], "type", "invalid_request_error")?;
    equal(&body["error"], "code", "model_not_found")
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_id_with_a_slash_stays_one_segment_of_the_path() {
        assert_eq!(super::in_a_path("a/b c-1.en"), "a%2Fb%20c-1.en");
    }
}
