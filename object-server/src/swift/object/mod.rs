//! Requests for objects.

pub mod copy;
pub mod delete;
pub mod look;
pub mod post;
pub mod put;
pub mod read;
pub mod segments;
pub mod slo_delete;
pub mod slo_put;

use std::sync::Arc;

use namespace::{Error, Namespace, Object, ObjectName};

use super::call::{Call, Scope};
use super::errors::Answer;
use crate::http::{Body, Response};

/// What the handler answers to other methods.
pub const METHODS: [&str; 7] = ["GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS", "COPY"];

/// Answers a request for an object.
pub async fn handle(call: &Arc<Call>, name: ObjectName, body: Body) -> Result<Response, Answer> {
    let query = &call.target.query;
    match call.method.as_str() {
        "GET" | "HEAD" => {
            authorize(call, &call.method, &name).await?;
            let request = read::Request::of(call, name)?;
            read::serve(call, request).await
        }
        "COPY" => copy::copy(call, name).await,
        "PUT" if call.header_text("x-copy-from").is_some() => copy::copy_from(call, name, body).await,
        "PUT" => {
            authorize(call, "PUT", &name).await?;
            if query.is("multipart-manifest", "put") {
                return slo_put::put(call, name, body).await;
            }
            refuse_slo_header(call)?;
            put::put(call, name, body).await
        }
        "POST" => {
            refuse_slo_header(call)?;
            authorize(call, "POST", &name).await?;
            post::post(call, name).await
        }
        _ => {
            if query.is("multipart-manifest", "delete") {
                return slo_delete::delete(call, name).await;
            }
            refuse_slo_header(call)?;
            authorize(call, "DELETE", &name).await?;
            delete::delete(call, name).await
        }
    }
}

/// Refuses a caller who may not do `method` to an object.
pub async fn authorize(call: &Call, method: &str, name: &ObjectName) -> Result<(), Answer> {
    let scope = Scope { account: &name.account, container: Some(&name.container), object: true };
    call.authorize(method, scope).await.map(|_| ())
}

fn refuse_slo_header(call: &Call) -> Result<(), Answer> {
    if call.headers.contains("x-static-large-object") {
        let text = "X-Static-Large-Object is a reserved header. To create a static large object add query \
                    param multipart-manifest=put.";
        return Err(Answer::html(400, text));
    }
    Ok(())
}

/// Opens an object that has not expired.
fn open(ns: &Namespace, name: &ObjectName) -> Result<Object, Error> {
    let object = ns.open_object(name)?;
    if object.info.has_expired() {
        return Err(Error::NoObject);
    }
    Ok(object)
}

/// Whether there is such an object.
fn exists(ns: &Namespace, name: &ObjectName) -> Result<bool, Error> {
    match open(ns, name) {
        Ok(_) => Ok(true),
        Err(Error::NoObject) => Ok(false),
        Err(e) => Err(e),
    }
}
