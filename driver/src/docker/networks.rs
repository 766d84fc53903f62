//! Networks made and removed through the engine, as a user would.

use std::path::Path;
use std::time::Duration;

use hyper::Method;
use hyper::body::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Error, bytes_of, get_json, in_time, read, send};

/// How long a change may take: the engine calls us for it, and tries again for a while where we don't answer.
const CHANGE: Duration = Duration::from_secs(60);

/// Why a network was not removed.
#[derive(Debug, thiserror::Error)]
pub enum NotRemoved {
    /// A container has it, running or not.
    #[error("a container has it")]
    InUse,
    /// Something else.
    #[error(transparent)]
    Other(#[from] Error),
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Made {
    id: String,
}

/// All networks.
///
/// # Errors
/// See [`Error`].
pub async fn list<T: DeserializeOwned>(socket: &Path) -> Result<Vec<T>, Error> {
    get_json(socket, "/networks").await
}

/// Makes a network; gives its identifier.
///
/// # Errors
/// See [`Error`].
pub async fn make(socket: &Path, request: &Value) -> Result<String, Error> {
    let call = "POST /networks/create";
    let body = Bytes::from(request.to_string());
    let made = async {
        let answer = send(socket, Method::POST, "/networks/create", body).await?;
        read::<Made>(call, answer).await
    };
    Ok(in_time(CHANGE, call, made).await?.id)
}

/// Removes a network that no container has, not even one that is stopped: it would not start again.
///
/// # Errors
/// See [`NotRemoved`].
pub async fn remove(socket: &Path, name: &str, id: &str) -> Result<(), NotRemoved> {
    // One that was never started knows its network by name only (moby `daemon/list.go`, `filterByNetwork`).
    let filters = encoded(&serde_json::json!({ "network": [id, name] }).to_string());
    let users: Vec<Value> = get_json(socket, &format!("/containers/json?all=1&filters={filters}")).await?;
    if !users.is_empty() {
        return Err(NotRemoved::InUse);
    }
    let path = format!("/networks/{id}");
    let call = format!("DELETE {path}");
    let removed = async {
        let answer = send(socket, Method::DELETE, &path, Bytes::new()).await?;
        bytes_of(&call, answer).await
    };
    match in_time(CHANGE, &call, removed).await {
        // Somebody else was faster.
        Ok(_) | Err(Error::Refused { status: 404, .. }) => Ok(()),
        // A container has come meanwhile.
        Err(Error::Refused { status: 403, .. }) => Err(NotRemoved::InUse),
        Err(error) => Err(error.into()),
    }
}

/// A text as it stands in the query of a URI (RFC 3986, section 2.1).
fn encoded(text: &str) -> String {
    use std::fmt::Write;
    text.bytes().fold(String::new(), |mut uri, byte| {
        match byte.is_ascii_alphanumeric() {
            true => uri.push(char::from(byte)),
            // Writing to a text can't fail.
            false => drop(write!(uri, "%{byte:02X}")),
        }
        uri
    })
}
