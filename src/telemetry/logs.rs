//! The proxy's own log: `tracing` to standard error, as JSON or text, its level and format changeable while running.

use std::io;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::Registry;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, fmt, reload};

use crate::config::schema::{Level, Log, LogFormat};

type Output = Box<dyn Layer<Registry> + Send + Sync>;

/// Handles on the log of the process.
#[derive(Clone)]
pub struct Logs {
    output: reload::Handle<Output, Registry>,
    filter: reload::Handle<Targets, Inner>,
}

/// What the filter stands on.
type Inner = tracing_subscriber::layer::Layered<reload::Layer<Output, Registry>, Registry>;

/// Once per process. `RUST_LOG` has no say: the configuration is the only place where a level comes from.
pub fn init(log: &Log) -> Result<Logs, TryInitError> {
    let (output, output_handle) = reload::Layer::new(output(log.format));
    let (filter, filter_handle) = reload::Layer::new(filter(log.level));
    tracing_subscriber::registry().with(output).with(filter).try_init()?;
    Ok(Logs { output: output_handle, filter: filter_handle })
}

impl Logs {
    /// After a reload of the configuration.
    pub fn configure(&self, log: &Log) {
        self.set_level(log.level);
        settle(self.output.reload(output(log.format)));
    }

    pub fn set_level(&self, level: Level) {
        settle(self.filter.reload(filter(level)));
    }

    pub fn level(&self) -> Level {
        let own = self.filter.with_current(own_level).ok().flatten();
        own.unwrap_or(Level::Info)
    }
}

impl Level {
    pub const ALL: [Self; 5] = [Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.name() == name)
    }
}

impl From<Level> for LevelFilter {
    fn from(level: Level) -> Self {
        match level {
            Level::Error => Self::ERROR,
            Level::Warn => Self::WARN,
            Level::Info => Self::INFO,
            Level::Debug => Self::DEBUG,
            Level::Trace => Self::TRACE,
        }
    }
}

/// A handle fails only once its subscriber is gone, which a global one never is.
fn settle(result: Result<(), reload::Error>) {
    debug_assert!(result.is_ok());
}

/// The libraries below us tell of every frame; they get a say from `warn` on, and all of it at `trace`.
fn filter(level: Level) -> Targets {
    let own = LevelFilter::from(level);
    let others = if level == Level::Trace { own } else { own.min(LevelFilter::WARN) };
    Targets::new().with_target(OWN, own).with_default(others)
}

/// Target of our own events: the name of the crate.
const OWN: &str = "outrigger";

fn own_level(filter: &Targets) -> Option<Level> {
    let own = filter.iter().find_map(|(target, level)| (target == OWN).then_some(level))?;
    Level::ALL.into_iter().find(|level| LevelFilter::from(*level) == own)
}

fn output(format: LogFormat) -> Output {
    match format {
        LogFormat::Json => Box::new(
            fmt::layer()
                .json()
                .flatten_event(true)
                .with_current_span(false)
                .with_span_list(false)
                .with_writer(io::stderr),
        ),
        LogFormat::Text => Box::new(fmt::layer().with_ansi(false).with_writer(io::stderr)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_have_names() {
        for level in Level::ALL {
            assert_eq!(Level::from_name(level.name()), Some(level));
            assert_eq!(own_level(&filter(level)), Some(level));
        }
        assert_eq!(Level::from_name("loud"), None);
    }

    #[test]
    fn libraries_are_quieter() {
        let enabled = |level, target, event| filter(level).would_enable(target, &event);
        assert!(enabled(Level::Debug, "outrigger::http", tracing::Level::DEBUG));
        assert!(!enabled(Level::Debug, "h2::codec", tracing::Level::INFO));
        assert!(enabled(Level::Info, "hyper", tracing::Level::WARN));
        assert!(!enabled(Level::Error, "hyper", tracing::Level::WARN));
        assert!(enabled(Level::Trace, "h2::codec", tracing::Level::TRACE));
    }

    #[test]
    fn a_level_changes_while_running() {
        let logs = init(&Log { level: Level::Warn, format: LogFormat::Text }).unwrap();
        logs.set_level(Level::Error);
        assert_eq!(logs.level(), Level::Error);
        logs.configure(&Log { level: Level::Warn, format: LogFormat::Json });
        assert_eq!(logs.level(), Level::Warn);
        assert!(init(&Log::default()).is_err());
    }
}
