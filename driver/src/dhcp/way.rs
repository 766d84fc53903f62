//! The way to the servers on a link: a socket that is open while it is needed, and tried again while it can't be.
//!
//! As long as there is a socket that takes all types of frames, the kernel makes a copy of the head of each packet that leaves by
//! the link, and that is all that the containers send. So it is open only while something is asked.

use tombolo_core::model::IfName;

use super::link::{Fault, Frames, usable};

/// How soon a link that could not be used is tried again, in milliseconds: at first, and at most.
const AGAIN_MS: (u64, u64) = (250, 10_000);

/// How long the socket stays open when nothing is asked any more, in milliseconds. Opening and closing it take the kernel some
/// milliseconds each, and containers are started and stopped together.
const LINGER_MS: u64 = 3_000;

enum Socket {
    /// Nobody needs it.
    Closed,
    Open(Frames),
    /// It can't be used.
    Faulty(Fault),
}

/// The way.
pub struct Way {
    parent: IfName,
    socket: Socket,
    /// Since when nothing is asked, if it is open all the same.
    idle_ms: Option<u64>,
    /// When a link that can't be used is tried again, and after which pause the next time.
    again_ms: u64,
    pause_ms: u64,
}

impl Way {
    /// Not open yet.
    pub fn new(parent: IfName) -> Self {
        Self {
            parent,
            socket: Socket::Closed,
            idle_ms: None,
            again_ms: 0,
            pause_ms: AGAIN_MS.0,
        }
    }

    /// Whether there is a socket.
    pub fn is_open(&self) -> bool {
        matches!(self.socket, Socket::Open(_))
    }

    /// When it has something to do, if something is being asked or not. `u64::MAX` is never.
    pub fn due_ms(&self, asking: bool) -> u64 {
        match (&self.socket, self.idle_ms) {
            (Socket::Faulty(_), _) if asking => self.again_ms,
            (Socket::Open(_), Some(since_ms)) => since_ms.saturating_add(LINGER_MS),
            _ => u64::MAX,
        }
    }

    /// Does what is due. Gives whether the link can be used again.
    pub fn tick(&mut self, now_ms: u64, asking: bool) -> bool {
        let idle = self.is_open() && !asking;
        self.idle_ms = idle.then(|| self.idle_ms.unwrap_or(now_ms));
        if now_ms < self.due_ms(asking) {
            return false;
        }
        match self.socket {
            Socket::Faulty(_) => self.open(now_ms),
            Socket::Open(_) => {
                let open = std::mem::replace(&mut self.socket, Socket::Closed);
                // The kernel waits there until no packet is on its way to the socket.
                tokio::task::spawn_blocking(move || drop(open));
                false
            }
            Socket::Closed => false,
        }
    }

    /// Has it open now, if it can be: it may have come back since it was looked at. Gives whether the link can be used again.
    ///
    /// # Errors
    /// Why it can't be used.
    pub fn need(&mut self, now_ms: u64) -> Result<bool, Fault> {
        let fine = matches!(&self.socket, Socket::Open(frames) if frames.is_still());
        let back = !fine && self.open(now_ms);
        self.known().map(|()| back)
    }

    /// Whether the link can be used, as far as is known.
    ///
    /// # Errors
    /// Why not.
    pub fn known(&self) -> Result<(), Fault> {
        match &self.socket {
            Socket::Faulty(fault) => Err(fault.clone()),
            Socket::Open(_) | Socket::Closed => Ok(()),
        }
    }

    /// Whether the link can carry something now.
    ///
    /// # Errors
    /// Why not.
    pub fn carries(&self) -> Result<(), Fault> {
        self.known().and_then(|()| usable(&self.parent))
    }

    /// Opens it, and gives whether that was tried in vain before.
    fn open(&mut self, now_ms: u64) -> bool {
        match Frames::open(&self.parent) {
            Ok(frames) => {
                self.pause_ms = AGAIN_MS.0;
                match std::mem::replace(&mut self.socket, Socket::Open(frames)) {
                    Socket::Faulty(fault) => {
                        tracing::info!(parent = %self.parent, before = %fault, "DHCP can be spoken again");
                        true
                    }
                    Socket::Open(_) | Socket::Closed => false,
                }
            }
            Err(fault) => {
                self.broken(fault, now_ms);
                false
            }
        }
    }

    /// Notes that the link can't be used.
    pub fn broken(&mut self, fault: Fault, now_ms: u64) {
        if self.known().as_ref() != Err(&fault) {
            tracing::warn!(parent = %self.parent, %fault, "DHCP can't be spoken; leases are renewed once it can");
        }
        self.socket = Socket::Faulty(fault);
        self.again_ms = now_ms.saturating_add(self.pause_ms);
        self.pause_ms = (self.pause_ms * 2).min(AGAIN_MS.1);
    }

    /// Waits for a frame, for ever while there is no socket.
    ///
    /// # Errors
    /// When nothing can be received any more.
    pub async fn next(&self, buffer: &mut [u8]) -> Result<usize, Fault> {
        match &self.socket {
            Socket::Open(frames) => frames.next(buffer).await,
            Socket::Closed | Socket::Faulty(_) => std::future::pending().await,
        }
    }

    /// Sends a frame. What can't be used is not tried again for it.
    ///
    /// # Errors
    /// When the link can't be used.
    pub fn send(&mut self, frame: &[u8], now_ms: u64) -> Result<(), Fault> {
        if matches!(self.socket, Socket::Closed) {
            self.open(now_ms);
        }
        let sent = match &self.socket {
            Socket::Open(frames) if frames.is_still() => frames.send(frame),
            Socket::Open(_) | Socket::Closed => Err(Fault::Missing),
            Socket::Faulty(fault) => return Err(fault.clone()),
        };
        if let Err(fault) = &sent {
            self.broken(fault.clone(), now_ms);
        }
        sent
    }
}
