//! Arguments of all commands that ask a running server.

use clap::Args;

use super::server::{self, Server};

/// Which server, and as whom.
#[derive(Clone, Debug, Args)]
pub struct ServerArgs {
    /// The server: http://host:9005, with or without /v1.
    #[arg(value_parser = server::address)]
    pub url: String,
    /// The key that it wants, as a bearer.
    #[arg(
        long,
        value_name = "KEY",
        env = "UTTERA_API_KEY",
        hide_env_values = true
    )]
    pub key: Option<String>,
}

impl ServerArgs {
    /// The server, and the models that it lists. None where nobody answers, which is told.
    ///
    /// # Errors
    /// There is no client.
    pub async fn reach(&self) -> anyhow::Result<Option<(Server, Vec<String>)>> {
        let server = Server::new(self.url.clone(), self.key.clone())?;
        match server.reach().await {
            Ok(models) => Ok(Some((server, models))),
            Err(error) => {
                eprintln!("{} cannot be reached: {error:#}", server.shown_url());
                Ok(None)
            }
        }
    }
}
