//! One connection to Redis, kept between calls.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use deadpool::managed::{self, Metrics, Object, Pool, PoolError, RecycleError, RecycleResult};
use deadpool_redis::redis::aio::MultiplexedConnection;
use deadpool_redis::redis::{
    AsyncConnectionConfig, Cmd, FromRedisValue, Pipeline, RedisError, cmd,
};
use tokio::time::{Instant, timeout_at};

use super::servers::{Opener, RedisPem, Servers};
use super::{
    CommandError, RedisUrlError, TIME_LIMIT, as_answer, is_about_the_command, unusable,
    while_connecting,
};

/// Time limit of one answer: half of [`TIME_LIMIT`], so that a call that finds its connection dead has
/// time for a new one.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// One connection, so that commands are sent in order: a publication must not overtake a withdrawal.
const CONNECTIONS: usize = 1;

/// One connection to a Redis server, kept between calls.
pub(super) struct Client {
    /// Replaced with its connection when certificates are reloaded.
    pool: ArcSwap<Pool<Connector>>,
    servers: Servers,
    /// The server, for error messages.
    pub(super) server: String,
}

/// What a call sends.
pub(super) enum Commands<'a> {
    One(&'a Cmd),
    /// All in one go, with a list of answers.
    Many(&'a Pipeline),
}

impl Client {
    /// The first call connects.
    pub(super) fn new(url: &str, pem: &RedisPem) -> Result<Self, RedisUrlError> {
        let servers = Servers::of(url)?;
        Ok(Self {
            pool: ArcSwap::from_pointee(pool(&servers, pem)?),
            server: servers.name(),
            servers,
        })
    }

    /// Uses these certificates from the next call on.
    pub(super) fn replace_certificates(&self, pem: &RedisPem) -> Result<(), RedisUrlError> {
        self.pool.store(Arc::new(pool(&self.servers, pem)?));
        Ok(())
    }

    pub(super) async fn run<T: FromRedisValue>(
        &self,
        commands: Commands<'_>,
    ) -> Result<T, CommandError> {
        let deadline = Instant::now() + TIME_LIMIT;
        let pool = self.pool.load_full();
        let mut lease = match timeout_at(deadline, pool.get()).await {
            Ok(Ok(connection)) => Lease(Some(connection)),
            Ok(Err(PoolError::Backend(error))) => {
                return Err(self.outage(&while_connecting(&error)));
            }
            Ok(Err(error)) => return Err(self.outage(&error.to_string())),
            Err(_) => return Err(self.outage("no connection in time")),
        };
        let connection = lease.connection();
        let answer = async {
            match commands {
                Commands::One(command) => command.query_async(connection).await,
                Commands::Many(commands) => commands.query_async(connection).await,
            }
        };
        match timeout_at(deadline, answer).await {
            Ok(Ok(answer)) => {
                lease.keep();
                Ok(answer)
            }
            Ok(Err(error)) => Err(CommandError {
                is_outage: !is_about_the_command(&error),
                ..self.outage(&as_answer(&error))
            }),
            Err(_) => Err(self.outage("it gave no answer in time")),
        }
    }

    pub(super) fn outage(&self, what: &str) -> CommandError {
        CommandError {
            text: format!("Redis at {}: {what}", self.server),
            is_outage: true,
        }
    }
}

fn pool(servers: &Servers, pem: &RedisPem) -> Result<Pool<Connector>, RedisUrlError> {
    // The limits of the pool would apply to each step; the deadline covers the whole call.
    let limits = AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(Some(ANSWER_LIMIT));
    let connector = Connector {
        opener: Opener::new(servers, pem).map_err(|error| unusable(&error))?,
        limits,
    };
    let pool = Pool::builder(connector).max_size(CONNECTIONS).build();
    Ok(pool.expect("building a pool fails only if the pool has its own time limits"))
}

/// Opens connections, and checks those that are kept.
struct Connector {
    opener: Opener,
    limits: AsyncConnectionConfig,
}

impl managed::Manager for Connector {
    type Type = MultiplexedConnection;
    type Error = RedisError;

    async fn create(&self) -> Result<MultiplexedConnection, RedisError> {
        match &self.opener {
            Opener::One(client) => {
                (client.get_multiplexed_async_connection_with_config(&self.limits)).await
            }
            // Asks for the master each time: after a failover it is another server.
            Opener::Sentinels(sentinels) => {
                let mut client = sentinels.lock().await;
                (client.get_async_connection_with_config(&self.limits)).await
            }
        }
    }

    async fn recycle(
        &self,
        connection: &mut MultiplexedConnection,
        _metrics: &Metrics,
    ) -> RecycleResult<RedisError> {
        let answer = cmd("PING").query_async::<()>(connection).await;
        answer.map_err(RecycleError::Backend)
    }
}

/// A connection in use. Dropping it closes the connection; [`Lease::keep`] returns it to the pool.
struct Lease(Option<Object<Connector>>);

impl Lease {
    fn connection(&mut self) -> &mut MultiplexedConnection {
        self.0
            .as_mut()
            .expect("only `keep` and `drop` take the connection, and both end the lease")
    }

    fn keep(mut self) {
        drop(self.0.take());
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(Object::take(connection));
        }
    }
}
