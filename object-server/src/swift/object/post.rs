//! POST of objects: new metadata for old data.

use std::sync::Arc;

use namespace::{Error, Namespace, ObjectName, ObjectPost};

use super::open;
use crate::http::Response;
use crate::swift::call::{self, Call, Doing};
use crate::swift::constraints::{self, Level};
use crate::swift::errors::Answer;
use crate::swift::{dlo, meta};

/// Answers a POST.
pub async fn post(call: &Arc<Call>, name: ObjectName) -> Result<Response, Answer> {
    let who = call.identity(&name.account).await?;
    let post = match checked(call) {
        Ok(post) => post,
        // A missing container goes before what is wrong with the request.
        Err(answer) => {
            call.store(who, Doing::Other, move |ns| ns.container_headers(&name.account, &name.container))
                .await?;
            return Err(answer);
        }
    };
    let timestamp = call.timestamp;
    let job = move |ns: &Namespace| {
        // What has expired is not there, although its file still is.
        open(ns, &name)?;
        ns.post_object(&name, post, timestamp)
    };
    match call.run(who, job).await? {
        Ok(_) => Ok(call::respond(Answer::new(202), false)),
        Err(Error::NoContainer | Error::NoAccount | Error::NoObject) => Err(Answer::new(404)),
        Err(e) => Err(call::failure(&e, Doing::Other)),
    }
}

fn checked(call: &Call) -> Result<ObjectPost, Answer> {
    constraints::check_metadata(&call.service.limits, Level::Object, call.headers.iter())?;
    if let Some(value) = call.header("x-object-manifest") {
        dlo::check(value)?;
    }
    let delete_at = constraints::delete_at(
        call.header("x-delete-after"),
        call.header("x-delete-at"),
        call.timestamp.units(),
    )?;
    let content_type = match call.header("content-type").filter(|value| !value.is_empty()) {
        None => None,
        Some(value) => {
            constraints::check_content_type(value)?;
            Some(String::from_utf8_lossy(value).into_owned())
        }
    };
    Ok(ObjectPost { content_type, delete_at, headers: meta::of_object(&call.headers) })
}
