//! Docker's plug-in protocol: bytes to a [`Command`], a [`Reply`] to bytes.
//!
//! The words are those of the engine's remote drivers (moby: libnetwork/drivers/remote/api, libnetwork/ipams/remote/api).
//! Its types stop here: nothing past this module sees a map of options or a string that should be an address.
//!
//! The engine sends no Content-Type, sends `null` for empty maps and lists, and repeats a request whose connection broke
//! with an *empty* body. So an empty body is refused wherever a body is due: a success would let the engine go on as if
//! the thing existed.

mod ipam;
mod network;
#[cfg(test)]
mod tests;

use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use crate::kinds::options;
use crate::model::{EndpointId, Malformed};
use crate::state::{Command, Reply};

pub use ipam::{SPACE_GLOBAL, SPACE_LOCAL};
pub use network::{nothing_to_tell, way_out_name};

/// What a request comes to.
#[derive(Debug, Clone, PartialEq)]
pub enum Call {
    /// The answer is always the same.
    Fixed(Value),
    /// The answer is always the same ([`nothing_to_tell`]), but what is asked of an endpoint tells something.
    Asked(EndpointId),
    /// The engine's records decide.
    Do(Box<Command>),
}

/// Why a request was not understood. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such method: answered with 404.
    #[error("{method} is no method of this plug-in")]
    NoMethod {
        /// What was called.
        method: String,
    },
    /// No body where one is due.
    #[error(
        "the request has no body; {method} needs one (a repeat after a lost connection has none, and can't be granted)"
    )]
    Empty {
        /// What was called.
        method: String,
    },
    /// Not the JSON that it should be.
    #[error("{field}: {why}")]
    Shape {
        /// The path to the field, or "body".
        field: String,
        /// What came and what is allowed.
        why: String,
    },
    /// A field's text isn't what it should be.
    #[error("{field}: {why}")]
    Field {
        /// The field.
        field: &'static str,
        /// What came and what is allowed.
        why: String,
    },
    /// A network's options were refused.
    #[error(transparent)]
    Options(#[from] options::Error),
}

impl Error {
    fn malformed(field: &'static str) -> impl Fn(Malformed) -> Self {
        move |why| Self::Field {
            field,
            why: why.to_string(),
        }
    }
}

/// Reads a request.
///
/// # Errors
/// [`Error`]; answer it with [`refusal`], but [`Error::NoMethod`] with 404.
pub fn read(method: &str, body: &[u8]) -> Result<Call, Error> {
    match method.split_once('.') {
        Some(("Plugin", "Activate")) => Ok(Call::Fixed(
            json!({ "Implements": ["NetworkDriver", "IpamDriver"] }),
        )),
        Some(("NetworkDriver", name)) => network::read(method, name, body),
        Some(("IpamDriver", name)) => ipam::read(method, name, body),
        _ => Err(Error::NoMethod {
            method: crate::model::cut(method),
        }),
    }
}

/// The answer to a command that was carried out.
pub fn answer(reply: &Reply) -> Value {
    match reply {
        // What becomes of a share is nobody's outside to ask for.
        Reply::Done | Reply::Share(_) => json!({}),
        Reply::Endpoint { chosen } => network::endpoint_answer(*chosen),
        Reply::Joined(joined) => network::join_answer(joined),
        Reply::Pool(id) => json!({ "PoolID": id.to_string(), "Pool": id.cidr().to_string(), "Data": {} }),
        Reply::Address(address) => json!({ "Address": address.to_string(), "Data": {} }),
    }
}

impl Call {
    /// The call for a command.
    fn to(command: Command) -> Self {
        Self::Do(Box::new(command))
    }
}

/// The answer to a request that was refused: HTTP 200 all the same, because the engine shows the text of no other. The
/// two interfaces name the field differently.
pub fn refusal(method: &str, why: &str) -> Value {
    if method.starts_with("IpamDriver.") {
        json!({ "Error": why })
    } else {
        json!({ "Err": why })
    }
}

/// Reads the body of a method that needs one.
fn body<T: DeserializeOwned>(method: &str, bytes: &[u8]) -> Result<T, Error> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(Error::Empty {
            method: method.to_owned(),
        });
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let Object(read) = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let field = if path == "." {
            "body".to_owned()
        } else {
            crate::model::cut(&path)
        };
        Error::Shape {
            field,
            why: crate::model::cut(&error.into_inner().to_string()),
        }
    })?;
    reader.end().map_err(|error| Error::Shape {
        field: "body".to_owned(),
        why: error.to_string(),
    })?;
    Ok(read)
}

/// A JSON object. A plain struct would be read from a list of its fields as well, which is no word of Docker's.
#[derive(Debug, Default)]
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(std::marker::PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }

        deserializer.deserialize_map(Fields(std::marker::PhantomData))
    }
}

/// A field that may be missing or `null`.
fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// A field's text as a value of a type; an empty text as none.
fn parse<T: std::str::FromStr>(field: &'static str, text: &str, allowed: &str) -> Result<Option<T>, Error> {
    if text.is_empty() {
        return Ok(None);
    }
    let why = || format!("'{}' is not {allowed}", crate::model::cut(text));
    text.parse()
        .map(Some)
        .map_err(|_| Error::Field { field, why: why() })
}
