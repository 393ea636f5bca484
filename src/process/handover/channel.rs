//! One end of the socket pair: whole packets, descriptors beside them, never a blocked thread without a deadline.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown, SocketFlags, SocketType, recvmsg, sendmsg, shutdown, socketpair,
    sockopt,
};
use tokio::io::Interest;

use super::message::{MAX_BYTES, MAX_SOCKETS_PER_MESSAGE, Message};

/// One end. Packets keep their bounds (`SOCK_SEQPACKET`), so there is no stream to fall out of step with.
#[derive(Debug)]
pub(super) struct Channel {
    socket: OwnedFd,
}

impl Channel {
    /// Our end, and the end for the child.
    pub(super) fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self::over(ours)?, theirs))
    }

    /// Takes over an end.
    pub(super) fn over(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self { socket })
    }

    /// Whether this descriptor is such an end, made by us or by root.
    pub(super) fn is_one(socket: BorrowedFd<'_>) -> bool {
        let kind = (sockopt::socket_domain(socket), sockopt::socket_type(socket));
        let maker = sockopt::socket_peercred(socket).map(|peer| peer.uid);
        kind == (Ok(AddressFamily::UNIX), Ok(SocketType::SEQPACKET))
            && maker.is_ok_and(|uid| uid.is_root() || uid == rustix::process::geteuid())
    }

    /// The process that made the pair.
    pub(super) fn maker(&self) -> io::Result<u32> {
        let peer = sockopt::socket_peercred(&self.socket)?;
        u32::try_from(peer.pid.as_raw_nonzero().get()).map_err(io::Error::other)
    }

    /// Sends a message and the sockets it names.
    pub(super) async fn send(&self, message: &Message, sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
        let packet = message.encode().map_err(io::Error::other)?;
        let watched = self.watched()?;
        watched.async_io(Interest::WRITABLE, || send(self.socket.as_fd(), &packet, sockets)).await
    }

    /// Waits for a message; `None` when the other end is gone.
    pub(super) async fn receive(&self) -> io::Result<Option<(Message, Vec<OwnedFd>)>> {
        let watched = self.watched()?;
        let packet = watched.async_io(Interest::READABLE, || receive(self.socket.as_fd())).await?;
        packet.map(understand).transpose()
    }

    /// As [`Channel::receive`], for the time before a runtime stands.
    pub(super) fn receive_by(&self, deadline: Instant) -> io::Result<Option<(Message, Vec<OwnedFd>)>> {
        loop {
            match receive(self.socket.as_fd()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait(PollFlags::IN, deadline)?,
                other => return other?.map(understand).transpose(),
            }
        }
    }

    /// As [`Channel::send`] without sockets, for the time before a runtime stands.
    pub(super) fn send_by(&self, message: &Message, deadline: Instant) -> io::Result<()> {
        let packet = message.encode().map_err(io::Error::other)?;
        loop {
            match send(self.socket.as_fd(), &packet, &[]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait(PollFlags::OUT, deadline)?,
                other => return other,
            }
        }
    }

    /// From now on the other end cannot say anything any more, and notices when it tries.
    pub(super) fn stop_listening(&self) {
        if let Err(error) = shutdown(&self.socket, Shutdown::Read) {
            log::warn!("cannot close the channel to the other process: {error}");
        }
    }

    /// A duplicate in the runtime's hands for one wait. tokio has no type for packets; it only watches for readiness here.
    fn watched(&self) -> io::Result<tokio::net::UnixStream> {
        tokio::net::UnixStream::from_std(std::os::unix::net::UnixStream::from(self.socket.try_clone()?))
    }

    fn wait(&self, what: PollFlags, deadline: Instant) -> io::Result<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let left = rustix::time::Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&self.socket, what)], Some(&left)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

struct Packet {
    bytes: Vec<u8>,
    sockets: Vec<OwnedFd>,
}

fn understand(packet: Packet) -> io::Result<(Message, Vec<OwnedFd>)> {
    let message = Message::decode(&packet.bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    let named = if let Message::Sockets { names, .. } = &message { names.len() } else { 0 };
    if named == packet.sockets.len() {
        Ok((message, packet.sockets))
    } else {
        let text = format!("{named} sockets named, {} received", packet.sockets.len());
        Err(io::Error::new(io::ErrorKind::InvalidData, text))
    }
}

fn send(socket: BorrowedFd<'_>, packet: &[u8], sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SOCKETS_PER_MESSAGE))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !sockets.is_empty() && !control.push(SendAncillaryMessage::ScmRights(sockets)) {
        return Err(io::Error::other("too many sockets for one message"));
    }
    let sent = loop {
        match sendmsg(socket, &[IoSlice::new(packet)], &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?,
        }
    };
    if sent == packet.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

fn receive(socket: BorrowedFd<'_>) -> io::Result<Option<Packet>> {
    let mut bytes = vec![0; MAX_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SOCKETS_PER_MESSAGE))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = loop {
        match recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags) {
            Err(rustix::io::Errno::INTR) => {}
            // The other end closed with something unread.
            Err(rustix::io::Errno::CONNRESET) => return Ok(None),
            other => break other?,
        }
    };
    let sockets: Vec<OwnedFd> = control
        .drain()
        .filter_map(|message| if let RecvAncillaryMessage::ScmRights(sockets) = message { Some(sockets) } else { None })
        .flatten()
        .collect();
    if received.flags.intersects(ReturnFlags::CTRUNC | ReturnFlags::TRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the message was cut: too few free descriptors?"));
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    bytes.truncate(received.bytes);
    Ok(Some(Packet { bytes, sockets }))
}
