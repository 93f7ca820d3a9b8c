//! `outrigger why`: asks a running proxy what became of a request, or of which requests it is worth asking.

mod text;

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use serde_json::Value;

use super::client::{self, Unreachable};
use super::paint::{Format, Paint};
use super::{DEFAULT_ADMIN, NOT_KEPT, UNREACHABLE};
use crate::telemetry::recent::{Filter, LIST_MAX};

#[derive(Debug, Args)]
pub struct Why {
    /// The x-request-id of the request; without it, recent requests that failed or were slow are listed
    #[arg(value_name = "REQUEST-ID", value_parser = NonEmptyStringValueParser::new())]
    id: Option<String>,
    /// Admin address of the proxy
    #[arg(long, value_name = "ADDR", default_value = DEFAULT_ADMIN)]
    admin: SocketAddr,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// List those that failed only
    #[arg(long, conflicts_with = "id")]
    failed: bool,
    /// List the slow only
    #[arg(long, conflicts_with_all = ["id", "failed"])]
    slow: bool,
    /// List all that are kept
    #[arg(long, conflicts_with_all = ["id", "failed", "slow"])]
    all: bool,
    /// List so many, the newest
    #[arg(long, value_name = "N", default_value_t = 20, conflicts_with = "id",
          value_parser = clap::value_parser!(u32).range(1..=LIST_MAX as i64))]
    limit: u32,
}

impl Why {
    fn path(&self) -> String {
        let filter = match (self.failed, self.slow, self.all) {
            (true, ..) => Filter::Failed,
            (_, true, _) => Filter::Slow,
            (.., true) => Filter::All,
            _ => Filter::Notable,
        };
        match &self.id {
            Some(id) => format!("/why/{}", encoded(id)),
            None => format!("/why?filter={}&limit={}", filter.name(), self.limit),
        }
    }
}

/// Exit codes: 0 found, 1 not kept any more, 3 no answer.
pub fn run(args: Why) -> ExitCode {
    let key = if args.id.is_some() { "id" } else { "exchanges" };
    match told(&args, client::get(args.admin, &args.path(), key), Paint::stdout()) {
        Ok((out, code)) => {
            super::print(&out);
            ExitCode::from(code)
        }
        Err(why) => super::fail(&why, UNREACHABLE),
    }
}

/// What to print for an answer, and the exit code; an error is no answer.
fn told(args: &Why, answer: Result<(u16, Value), Unreachable>, paint: Paint) -> Result<(String, u8), String> {
    let (status, value) = answer.map_err(|error| error.to_string())?;
    let not_kept = status == 404 && value.get("kept").is_some();
    if status != 200 && !not_kept {
        let why = value.get("error").unwrap_or(&value).as_str().unwrap_or("without a reason");
        return Err(format!("{} answered {status}: {why}", args.admin));
    }
    let out = match (args.format, not_kept, &args.id) {
        (Format::Json, ..) => format!("{value:#}\n"),
        (Format::Text, true, _) => text::not_kept(&value, paint),
        (Format::Text, false, Some(_)) => text::exchange(&value, paint),
        (Format::Text, false, None) => text::list(&value, paint),
    };
    Ok((out, if not_kept { NOT_KEPT } else { 0 }))
}

/// As one segment of a path (RFC 3986, section 2.3: what is unreserved stays).
fn encoded(id: &str) -> String {
    let mut out = String::with_capacity(id.len());
    for byte in id.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte.into()),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests;
