//! Logs on standard error: text on a terminal, one JSON object a line otherwise. Nobody waits for their reader.

use std::io::IsTerminal;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::stderr::Lines;
use crate::time::{Clock, SystemClock};

/// In the forms of the layers below.
static TEXT: Lines = Lines::new(|dropped| format!("{:.6}  WARN {DROPPED} dropped={dropped}\n", SystemClock.wall()));
static JSON: Lines = Lines::new(|dropped| {
    let time = SystemClock.wall();
    format!(
        "{{\"timestamp\":\"{time:.6}\",\"level\":\"WARN\",\"message\":\"{DROPPED}\",\"dropped\":{dropped},\"target\":\"leasehold\"}}\n"
    )
});
const DROPPED: &str = "lines before this were dropped, for nobody read them";

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl From<Level> for LevelFilter {
    fn from(level: Level) -> Self {
        match level {
            Level::Error => LevelFilter::ERROR,
            Level::Warn => LevelFilter::WARN,
            Level::Info => LevelFilter::INFO,
            Level::Debug => LevelFilter::DEBUG,
            Level::Trace => LevelFilter::TRACE,
        }
    }
}

/// `LEASEHOLD_LOG` (`leasehold=debug,hyper=info`) wins over the level.
pub fn init(level: Level) -> Result<(), String> {
    let filter = match std::env::var("LEASEHOLD_LOG") {
        Ok(text) => text.parse::<Targets>().map_err(|error| {
            format!("LEASEHOLD_LOG={text:?} is no filter ({error}): write targets and levels, such as leasehold=debug,hyper=info")
        })?,
        Err(_) => Targets::new().with_default(LevelFilter::WARN).with_target("leasehold", LevelFilter::from(level)),
    };
    let registry = tracing_subscriber::registry().with(filter);
    if std::io::stderr().is_terminal() {
        registry.with(tracing_subscriber::fmt::layer().with_writer(|| &TEXT).with_target(false)).init();
    } else {
        registry
            .with(
                tracing_subscriber::fmt::layer()
                    .json()
                    .flatten_event(true)
                    .with_current_span(false)
                    .with_span_list(false)
                    .with_writer(|| &JSON),
            )
            .init();
    }
    Ok(())
}
