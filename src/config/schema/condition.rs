//! The words for what came of a request, as keys.

use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::policy::outcome;

/// What a rule looks for in what came of a request: `5xx`, `gatewayError`, `connectFailure`, `reset`, `refusedStream`,
/// `timeout`, a status, or a gRPC code such as `grpc:unavailable`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Condition {
    Status(#[schemars(range(min = 100, max = 599))] u16),
    Word(#[schemars(extend("format" = "condition"))] String),
}

impl Condition {
    /// The check of the file has refused what is none.
    pub fn compile(&self) -> Option<outcome::Condition> {
        match self {
            Self::Status(status) => Some(outcome::Condition::Status(*status)),
            Self::Word(word) => outcome::Condition::from_str(word).ok(),
        }
    }
}
