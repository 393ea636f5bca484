//! A gRPC server whose only method sends back what comes, as it comes, and then says that all is well.

use std::io;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::TcpStream;

/// Serves a connection that speaks HTTP/2.
pub(crate) async fn serve(stream: TcpStream) -> io::Result<()> {
    let mut connection = h2::server::handshake(stream).await.map_err(io::Error::other)?;
    while let Some(accepted) = connection.accept().await {
        let (request, respond) = accepted.map_err(io::Error::other)?;
        tokio::spawn(async move {
            let _ = echo(request, respond).await;
        });
    }
    Ok(())
}

async fn echo(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) -> Result<(), h2::Error> {
    let mut head = Response::new(());
    head.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    let mut send = respond.send_response(head, false)?;
    let mut body = request.into_body();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        // The client's end may be a frame without data. Sent back for each stream, these would pass for a flood.
        if !data.is_empty() {
            send.send_data(data, false)?;
        }
    }
    let status = (http::HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"));
    send.send_trailers(HeaderMap::from_iter([status]))
}
