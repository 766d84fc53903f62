//! A name server that gives every name one address: enough to see whether a question arrives.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use system_tests::Spaces;

/// The length of a message's head.
const HEAD: usize = 12;

/// The type of a question for an IPv4 address.
const A: [u8; 2] = [0, 1];

/// A name server in a place of the lab.
pub struct NameServer {
    asked: Arc<AtomicUsize>,
    unwanted: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl NameServer {
    /// A server on port 53 of an address.
    #[track_caller]
    pub fn at(place: &Spaces, address: &str, answer: Ipv4Addr) -> Self {
        let socket = place.enter(|| UdpSocket::bind((address, 53)));
        let socket = socket.unwrap_or_else(|e| panic!("listening on port 53 of {address}: {e}"));
        socket
            .set_read_timeout(Some(Duration::from_millis(100)))
            .expect("a time limit on a socket");
        let (asked, unwanted) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, flag) = (Arc::clone(&asked), Arc::clone(&unwanted));
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while !flag.load(Ordering::Relaxed) {
                if let Ok((length, asker)) = socket.recv_from(&mut buffer) {
                    count.fetch_add(1, Ordering::Relaxed);
                    if let Some(reply) = reply(&buffer[..length], answer) {
                        socket.send_to(&reply, asker).ok();
                    }
                }
            }
        });
        Self {
            asked,
            unwanted,
            thread: Some(thread),
        }
    }

    /// How many questions have come.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.unwanted.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// The answer to a question (RFC 1035, section 4): the address for a question of type A, else nothing, without error.
fn reply(question: &[u8], address: Ipv4Addr) -> Option<Vec<u8>> {
    let name_end = HEAD + question.get(HEAD..)?.iter().position(|&byte| byte == 0)?;
    let end = name_end + 5;
    let is_address = question.get(name_end + 1..name_end + 3)? == A;
    let mut reply = question.get(..end)?.to_vec();
    // A response, recursion wanted and available; one question, perhaps one answer, and nothing besides.
    reply[2..HEAD].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(is_address), 0, 0, 0, 0]);
    if is_address {
        // The name as in the question, type A, class IN, 60 seconds, 4 bytes.
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        reply.extend(address.octets());
    }
    Some(reply)
}
