//! Which hardware address is behind an address now, told to those on a link who may believe something else: by frames that
//! [`super::frame`] writes.
//!
//! Linux takes either over at once where it has an entry of that address, and makes none where it has not. A bridge sends
//! neither to a port with `neigh_suppress`, as our tunnels are, and table `bridge tombolo` drops it there.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsRawFd;

use nix::net::if_::if_nametoindex;
use nix::sys::socket::{LinkAddr, MsgFlags, sendto};
use socket2::Socket;
use tombolo_core::model::IfName;

use super::{Announcement, frame, packet};

/// How many links are known at most.
const LINKS: usize = 1024;

/// Who announces. Its socket is opened for the first announcement and stays: when one is closed the kernel waits until none of its
/// processors can be using it, some 10 to 20 ms, in which a container would wait for its start.
#[derive(Default)]
pub(super) struct Announcer {
    socket: Option<Socket>,
    /// Links as the socket names them. To find that of a link the kernel tells of all there are, so it is kept.
    links: BTreeMap<IfName, LinkAddr>,
}

impl Announcer {
    /// Sends some announcements. One that can't be sent doesn't stop the others; the first error is told.
    pub fn send(&mut self, announcements: &[Announcement]) -> io::Result<()> {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => packet::on_no_link()?,
        };
        let mut first = None;
        for announcement in announcements {
            if let Err(error) = self.send_one(&socket, announcement) {
                let error = io::Error::new(error.kind(), format!("{announcement}: {error}"));
                first.get_or_insert(error);
            }
        }
        self.socket = Some(socket);
        first.map_or(Ok(()), Err)
    }

    fn send_one(&mut self, socket: &Socket, announcement: &Announcement) -> io::Result<()> {
        let address = self.link(&announcement.bridge)?;
        let frame = frame::announcement(announcement.address, announcement.mac);
        sendto(socket.as_raw_fd(), &frame, &address, MsgFlags::MSG_DONTWAIT)?;
        Ok(())
    }

    /// A link as the socket names it. One that was made anew has another index.
    fn link(&mut self, name: &IfName) -> io::Result<LinkAddr> {
        let index = if_nametoindex(name.as_str())?;
        if let Some(known) = self.links.get(name)
            && u32::try_from(known.ifindex()).is_ok_and(|known| known == index)
        {
            return Ok(*known);
        }
        let address = packet::link_address(name)?;
        if self.links.len() >= LINKS {
            self.links.clear();
        }
        self.links.insert(name.clone(), address);
        Ok(address)
    }
}
