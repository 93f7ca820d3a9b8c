//! One document of the state directory: a line of JSON that ends in the SHA-256 of all that stands before it.

use std::io;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::config::digest::sha256;

/// Larger documents are neither written nor read.
pub const BYTES_MAX: u64 = 64 << 20;
const FORMAT: u64 = 1;

const CHECKSUM: &str = ",\"checksum\":\"";
const END: &str = "\"}\n";

#[derive(Serialize)]
struct Formatted<'a, T> {
    format: u64,
    #[serde(flatten)]
    body: &'a T,
}

#[derive(Deserialize)]
struct Format {
    format: u64,
}

pub fn seal<T: Serialize>(body: &T) -> io::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(&Formatted { format: FORMAT, body })?;
    // The brace that closes it.
    bytes.pop();
    let checksum = sha256(&bytes);
    for part in [CHECKSUM, &checksum, END] {
        bytes.extend_from_slice(part.as_bytes());
    }
    if bytes.len() as u64 > BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, too_large()));
    }
    Ok(bytes)
}

/// Or what is wrong with it, without any of its content.
pub fn unseal<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    // First, since another format may be sealed in another way.
    let Format { format } = read(bytes)?;
    if format != FORMAT {
        return Err(format!("its format is {format}, and this version reads {FORMAT}"));
    }
    let sealed = || {
        let rest = bytes.strip_suffix(END.as_bytes())?;
        let (rest, checksum) = rest.split_at_checked(rest.len().checked_sub(64)?)?;
        Some((rest.strip_suffix(CHECKSUM.as_bytes())?, checksum))
    };
    let (content, checksum) = sealed().ok_or("it does not end in a checksum")?;
    if sha256(content).as_bytes() != checksum {
        return Err("its checksum is not that of its content".to_owned());
    }
    read(bytes)
}

pub fn too_large() -> String {
    format!("it is larger than {} MiB", BYTES_MAX >> 20)
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    serde_json::from_slice(bytes).map_err(|error| {
        let what = match error.classify() {
            serde_json::error::Category::Eof => "it is cut short",
            serde_json::error::Category::Data => "a field is missing or is not what it should be",
            serde_json::error::Category::Syntax | serde_json::error::Category::Io => "it is not JSON",
        };
        format!("{what} (line {}, column {})", error.line(), error.column())
    })
}

/// Moments in documents, as RFC 3339.
pub mod moment {
    use std::time::SystemTime;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::telemetry::rfc3339::{Rfc3339, parse};

    pub fn serialize<S: Serializer>(moment: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Rfc3339(*moment))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse(&text).ok_or_else(|| Error::custom("not a moment"))
    }
}
