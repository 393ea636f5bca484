//! Parts of an answer on their way to the client.

use pingora::prelude::Result;
use pingora::protocols::http::HttpTask;
use pingora_proxy::Session;

/// Bytes of parts that are joined to one.
const JOINED_BYTES: usize = 8 << 10;

/// Writes parts of an answer to the client. Those that Pingora is given together it copies into one buffer, which it keeps until the
/// answer is over: large ones go by themselves. Who does not read would else hold twice what was read for him.
pub(super) async fn write_parts(session: &mut Session, parts: Vec<HttpTask>) -> Result<()> {
    if parts.iter().map(body_bytes).sum::<usize>() <= JOINED_BYTES {
        return session.write_response_tasks(parts).await.map(drop);
    }
    let (mut joined, mut joined_bytes) = (Vec::new(), 0);
    for part in parts {
        let bytes = body_bytes(&part);
        // Before it fails, Pingora pushes out what it is given together with the failure.
        let stays = joined.is_empty() || matches!(part, HttpTask::Failed(_));
        if joined_bytes + bytes > JOINED_BYTES && !stays {
            session.write_response_tasks(std::mem::take(&mut joined)).await?;
            joined_bytes = 0;
        }
        joined_bytes += bytes;
        joined.push(part);
    }
    session.write_response_tasks(joined).await.map(drop)
}

fn body_bytes(part: &HttpTask) -> usize {
    match part {
        HttpTask::Body(Some(piece), _) => piece.len(),
        _ => 0,
    }
}
