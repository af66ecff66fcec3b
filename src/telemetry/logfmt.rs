//! Log lines as `name=value` pairs. A value with other than plain characters is quoted as in JSON, which all readers
//! of logfmt understand.

use std::fmt::{self, Debug, Write};

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Writes `ts`, `level`, `msg`, `target`, and then the fields.
#[derive(Clone, Copy, Debug)]
pub struct Logfmt;

impl<S, N> FormatEvent<S, N> for Logfmt
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        writer.write_str("ts=")?;
        SystemTime.format_time(&mut writer)?;
        let metadata = event.metadata();
        let level = metadata.level().as_str().to_ascii_lowercase();
        let mut pairs = Pairs::default();
        event.record(&mut pairs);
        write!(writer, " level={level} msg=")?;
        write_value(&mut writer, &pairs.message)?;
        writer.write_str(" target=")?;
        write_value(&mut writer, metadata.target())?;
        writer.write_str(&pairs.fields)?;
        writer.write_char('\n')
    }
}

/// An event's fields.
#[derive(Default)]
struct Pairs {
    message: String,
    /// Each with a blank before it.
    fields: String,
}

impl Pairs {
    fn add(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
            return;
        }
        // Writing to a string cannot fail.
        let _ = write!(self.fields, " {}=", name(field.name()));
        let _ = write_value(&mut self.fields, value);
    }
}

impl Visit for Pairs {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.add(field, &format!("{value:?}"));
    }
}

/// The name of a raw identifier has a prefix.
fn name(name: &str) -> &str {
    name.strip_prefix("r#").unwrap_or(name)
}

fn write_value(to: &mut impl Write, value: &str) -> fmt::Result {
    let is_plain = |character: char| {
        !character.is_whitespace()
            && !character.is_control()
            && !matches!(character, '"' | '\'' | '=' | '\\' | '`')
    };
    if !value.is_empty() && value.chars().all(is_plain) {
        return to.write_str(value);
    }
    let quoted = serde_json::to_string(value).map_err(|_never| fmt::Error)?;
    to.write_str(&quoted)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::fmt;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn values_are_quoted_where_readers_need_it() {
        let lines = Lines::default();
        let writer = lines.clone();
        let layer = fmt::layer().with_writer(move || writer.clone());
        let log = tracing_subscriber::registry().with(layer.event_format(Logfmt));
        tracing::subscriber::with_default(log, || {
            let name = "two words";
            tracing::warn!(
                name,
                count = 3,
                share = 0.5,
                plain = "a-b/c:é",
                empty = "",
                absent = None::<&str>,
                path = %"C:\\x",
                quote = ?"a\"b\u{1b}",
                forged = "x\nlevel=error msg=no",
                "it \"works\""
            );
        });
        let written = String::from_utf8(lines.0.lock().expect("no panic").clone()).expect("text");
        let (time, rest) = written.split_once(' ').expect("a time");
        assert!(time.starts_with("ts=20") && time.ends_with('Z'), "{time}");
        let expected = concat!(
            r#"level=warn msg="it \"works\"" target=uttera_stt::telemetry::logfmt::tests "#,
            r#"name="two words" count=3 share=0.5 plain=a-b/c:é empty="" path="C:\\x" "#,
            r#"quote="\"a\\\"b\\u{1b}\"" forged="x\nlevel=error msg=no""#,
            "\n",
        );
        assert_eq!(rest, expected);
    }
}
