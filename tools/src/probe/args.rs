//! Arguments that all commands share which test a running server.

use clap::Args;

use super::client::{self, TlsArgs};
use super::server::{self, Server};

/// The server to test, and the key for it.
#[derive(Clone, Debug, Args)]
pub struct ServerArgs {
    /// Address of the server: http://host:9005, with or without /v1.
    #[arg(value_parser = server::address)]
    pub url: String,
    /// API key, sent as a bearer token.
    #[arg(
        long,
        value_name = "KEY",
        env = "UTTERA_API_KEY",
        hide_env_values = true
    )]
    pub key: Option<String>,
    #[command(flatten)]
    tls: TlsArgs,
}

impl ServerArgs {
    /// Connects to the server and lists its models. Prints the reason and returns `None` if the server cannot
    /// be reached.
    ///
    /// # Errors
    /// The HTTP client cannot be created, for example because a certificate cannot be read.
    pub async fn reach(&self) -> anyhow::Result<Option<(Server, Vec<String>)>> {
        let client = client::client_with(&self.tls)?;
        let server = Server::with_client(client, self.url.clone(), self.key.clone());
        match server.reach().await {
            Ok(models) => Ok(Some((server, models))),
            Err(error) => {
                eprintln!("{} cannot be reached: {error:#}", server.shown_url());
                Ok(None)
            }
        }
    }
}
