//! Which hardware address is behind an address now, told to those on a link who may believe something else: by frames that
//! [`super::frame`] writes.
//!
//! Linux takes either over at once where it has an entry of that address, and makes none where it has not. A bridge sends
//! neither to a port with `neigh_suppress`, as our tunnels are, and table `bridge tombolo` drops it there.

use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::{LinkAddr, MsgFlags, sendto};
use socket2::Socket;
use tombolo_core::model::IfName;

use super::{Announcement, frame, packet};

/// Who announces. Its socket is opened for the first announcement and stays: when one is closed the kernel waits until none of its
/// processors can be using it, some 10 to 20 ms, in which a container would wait for its start.
#[derive(Default)]
pub(super) struct Announcer(Option<Socket>);

impl Announcer {
    /// Sends some announcements. One that can't be sent doesn't stop the others; the first error is told.
    pub fn send(&mut self, announcements: &[Announcement]) -> io::Result<()> {
        let socket = match self.0.take() {
            Some(socket) => socket,
            None => packet::on_no_link()?,
        };
        let mut first = None;
        let mut link = None;
        for announcement in announcements {
            if let Err(error) = send_one(&socket, announcement, &mut link) {
                let error = io::Error::new(error.kind(), format!("{announcement}: {error}"));
                first.get_or_insert(error);
            }
        }
        self.0 = Some(socket);
        first.map_or(Ok(()), Err)
    }
}

/// Sends by a link whose address is known already, if it is the same.
fn send_one<'a>(
    socket: &Socket,
    announcement: &'a Announcement,
    link: &mut Option<(&'a IfName, LinkAddr)>,
) -> io::Result<()> {
    let bridge = &announcement.bridge;
    let (_, address) = match link.take().filter(|(known, _)| *known == bridge) {
        Some(known) => link.insert(known),
        None => link.insert((bridge, packet::link_address(bridge)?)),
    };
    let frame = frame::announcement(announcement.address, announcement.mac);
    sendto(socket.as_raw_fd(), &frame, address, MsgFlags::MSG_DONTWAIT)?;
    Ok(())
}
