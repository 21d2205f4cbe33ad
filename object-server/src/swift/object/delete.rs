//! DELETE of objects.

use std::sync::Arc;

use namespace::{Error, Namespace, ObjectName, Timestamp};

use crate::http::Response;
use crate::swift::call::{self, Call, Doing};
use crate::swift::errors::Answer;

/// Answers a DELETE.
pub async fn delete(call: &Arc<Call>, name: ObjectName) -> Result<Response, Answer> {
    remove(call, name).await.map(|()| call::done(204))
}

/// Removes an object, if it still expires when the client thinks it does.
pub async fn remove(call: &Call, name: ObjectName) -> Result<(), Answer> {
    let expected = call
        .header("x-if-delete-at")
        .map(|value| {
            let time = std::str::from_utf8(value).ok().and_then(|text| text.trim().parse::<Timestamp>().ok());
            time.ok_or_else(|| Answer::html(400, "Bad X-If-Delete-At header value"))
        })
        .transpose()?;
    remove_at(call, name, call.timestamp, expected).await
}

/// Removes an object as of `timestamp`, if it still expires when `expected`.
pub async fn remove_at(
    call: &Call,
    name: ObjectName,
    timestamp: Timestamp,
    expected: Option<Timestamp>,
) -> Result<(), Answer> {
    let who = call.identity(&name.account).await?;
    let job = move |ns: &Namespace| {
        if let Some(expected) = expected {
            let object = ns.open_object(&name)?;
            if object.info.delete_at.map(Timestamp::from_seconds) != Some(expected) {
                let text = "X-If-Delete-At and X-Delete-At do not match";
                return Ok(Err(Answer::html(412, text)));
            }
        }
        let removed = ns.delete_object(&name, timestamp)?;
        // What had expired was no object any more, unless the client asked for just that.
        if expected.is_none() && removed.has_expired() {
            return Err(Error::NoObject);
        }
        Ok(Ok(()))
    };
    call.store(who, Doing::Other, job).await?
}
