//! Counts a tree's warnings during a test.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use super::world::lock;

/// Counts the warnings logged during its lifetime that contain a text.
pub struct Warnings {
    texts: Arc<Mutex<Vec<String>>>,
    _guard: tracing::subscriber::DefaultGuard,
}

impl Warnings {
    pub fn listen() -> Self {
        use tracing_subscriber::layer::SubscriberExt;
        let texts = Arc::<Mutex<Vec<String>>>::default();
        let layer = WarningLayer(Arc::clone(&texts));
        let subscriber = tracing_subscriber::registry().with(layer);
        Self {
            texts,
            _guard: tracing::subscriber::set_default(subscriber),
        }
    }

    pub fn count(&self, part: &str) -> usize {
        lock(&self.texts)
            .iter()
            .filter(|text| text.contains(part))
            .count()
    }
}

struct WarningLayer(Arc<Mutex<Vec<String>>>);

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for WarningLayer {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        struct Text(String);
        impl tracing::field::Visit for Text {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                let _ = write!(self.0, "{}={value:?} ", field.name());
            }
        }
        if *event.metadata().level() <= tracing::Level::WARN {
            let mut text = Text(String::new());
            event.record(&mut text);
            lock(&self.0).push(text.0);
        }
    }
}
