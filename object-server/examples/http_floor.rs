//! What the HTTP layer costs by itself, to be measured beside nginx: `http_floor ADDRESS FILE [THREADS]`.
//!
//! `GET /memory` answers 4 KiB from memory, `GET /file` the whole FILE by sendfile, `GET /read` the whole FILE read
//! on the pool (what a handler does with small objects); PUT takes any body and drops it. THREADS is the number of
//! reactor threads, 1 without it.

use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use lustre::pool::Pool;
use object_server::http::{self, FileRange, Handler, Limits, Request, Response, ResponseBody, Workers};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct Floor {
    memory: Bytes,
    file: Arc<File>,
    len: u64,
    pool: Pool,
}

impl Handler for Floor {
    async fn call(&self, mut request: Request) -> Response {
        if request.method == "PUT" {
            loop {
                match request.body.chunk().await {
                    Ok(Some(_)) => {}
                    Ok(None) => return Response::new(201),
                    Err(error) => return Response::new(error.status()),
                }
            }
        }
        let response = Response::new(200).header("Content-Type", "application/octet-stream");
        let body = match request.target.as_slice() {
            b"/memory" => ResponseBody::Bytes(self.memory.clone()),
            b"/file" => {
                let (file, pool) = (Arc::clone(&self.file), self.pool.clone());
                ResponseBody::File(FileRange { file, offset: 0, len: self.len, pool })
            }
            b"/read" => {
                let (file, len) = (Arc::clone(&self.file), self.len as usize);
                let read = move || {
                    let mut bytes = vec![0; len];
                    file.read_exact_at(&mut bytes, 0).map(|()| bytes)
                };
                match self.pool.run(None, read).await {
                    Ok(Ok(bytes)) => ResponseBody::Bytes(bytes.into()),
                    _ => return Response::new(503),
                }
            }
            _ => return Response::new(404),
        };
        Response { body, ..response }
    }
}

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let address: SocketAddr = arguments.next().context("no address")?.parse()?;
    let file = File::open(arguments.next().context("no file")?)?;
    let threads = arguments.next().map_or(Ok(1), |threads| threads.parse())?;
    let handler = Arc::new(Floor {
        memory: Bytes::from(vec![b'm'; 4096]),
        len: file.metadata()?.len(),
        file: Arc::new(file),
        pool: Pool::new("floor", 8, 1024),
    });
    let mut runtime = match threads {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = runtime.worker_threads(threads).enable_all().build()?;
    runtime.block_on(async {
        let (_stop, stopped) = tokio::sync::watch::channel(false);
        http::serve(http::bind(address)?, None, handler, Limits::default(), Workers::here(), stopped).await;
        Ok(())
    })
}
