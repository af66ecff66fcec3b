//! The page at `/`, the board at `/board`, and their files. They need no key: they contain no data, and ask for a key
//! themselves where the API needs one.

use std::hash::{DefaultHasher, Hash, Hasher};

use actix_web::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, ETAG, EntityTag, HeaderName, IfNoneMatch,
    REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use actix_web::{HttpResponse, web};

use super::readable;
use crate::http::reply::error::ApiError;
use crate::page::{BOARD, INDEX, PageFile};

/// What the page may do: run its own scripts, connect to this server, and play sound that it has itself.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      media-src blob:; worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const PERMISSIONS_POLICY: HeaderName = HeaderName::from_static("permissions-policy");

pub fn configure(config: &mut web::ServiceConfig) {
    config
        .service(readable("/", index))
        .service(readable("/board", board))
        .service(readable("/page/{file}", file));
}

async fn index(known: web::Header<IfNoneMatch>) -> HttpResponse {
    reply(INDEX, &known)
}

async fn board(known: web::Header<IfNoneMatch>) -> HttpResponse {
    reply(BOARD, &known)
}

async fn file(
    name: web::Path<String>,
    known: web::Header<IfNoneMatch>,
) -> Result<HttpResponse, ApiError> {
    let found = PageFile::find(&name);
    let found = found.ok_or_else(|| ApiError::not_found(&format!("/page/{name}"), None))?;
    Ok(reply(found, &known))
}

/// The file, or 304 if the browser has it.
fn reply(file: PageFile, known: &IfNoneMatch) -> HttpResponse {
    let mut hasher = DefaultHasher::new();
    file.content.hash(&mut hasher);
    let tag = EntityTag::new_strong(format!("{:x}", hasher.finish()));
    let is_known = match known {
        IfNoneMatch::Any => true,
        IfNoneMatch::Items(tags) => tags.iter().any(|known| known.weak_eq(&tag)),
    };
    let mut response = if is_known {
        HttpResponse::NotModified()
    } else {
        HttpResponse::Ok()
    };
    response
        .insert_header((ETAG, tag.to_string()))
        // After an update of the server, browsers load the new files.
        .insert_header((CACHE_CONTROL, "no-cache"))
        .insert_header((CONTENT_SECURITY_POLICY, POLICY))
        .insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((REFERRER_POLICY, "no-referrer"))
        .insert_header((
            PERMISSIONS_POLICY,
            "microphone=(self), camera=(), geolocation=()",
        ));
    if is_known {
        response.finish()
    } else {
        response
            .content_type(file.content_type())
            .body(file.content)
    }
}
