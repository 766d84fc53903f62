//! A socket that is served, by its name: where the name was taken away, a new socket is made and served as well.

use std::path::PathBuf;

use axum::Router;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::hand_over::Told;
use crate::http;
use crate::sockets::{self, Name, Socket};

/// One of our sockets, being served.
pub struct Door {
    path: PathBuf,
    app: Router,
    told: watch::Receiver<Told>,
    name: Option<Name>,
    server: JoinHandle<UnixListener>,
}

impl Door {
    /// Serves a socket until something else is told than to serve.
    ///
    /// # Errors
    /// When the socket can't be used without blocking.
    pub fn open(
        socket: Socket,
        path: PathBuf,
        app: Router,
        told: watch::Receiver<Told>,
    ) -> std::io::Result<Self> {
        let Socket { listener, name } = socket;
        let server = serve(listener, app.clone(), told.clone())?;
        Ok(Self {
            path,
            app,
            told,
            name,
            server,
        })
    }

    /// Makes the socket anew if its name is ours and leads to it no more. The old one is served on: what has come to it
    /// is answered. Gives the step that this took, and why it failed if it did.
    pub fn mend(&mut self) -> Option<(String, Option<String>)> {
        if self.name.as_ref().is_none_or(Name::leads_here) {
            return None;
        }
        let bound = sockets::bind(&self.path).map_err(|error| http::chain(&error));
        let mended = bound.and_then(|Socket { listener, name }| {
            let server = serve(listener, self.app.clone(), self.told.clone());
            let server = server.map_err(|error| error.to_string())?;
            (self.server, self.name) = (server, name);
            Ok(())
        });
        let path = self.path.display();
        match &mended {
            Ok(()) => tracing::warn!(%path, "somebody took the socket away; it was made anew"),
            Err(why) => {
                tracing::error!(%path, why, "somebody took the socket away, and it can't be made anew")
            }
        }
        Some((format!("bind {path}"), mended.err()))
    }

    /// Waits until the server has ended; gives the socket back, for whoever serves it next. None if it was lost.
    pub async fn ended(self) -> Option<Socket> {
        let listener = self.server.await.ok()?.into_std().ok()?;
        Some(Socket {
            listener,
            name: self.name,
        })
    }
}

fn serve(
    listener: std::os::unix::net::UnixListener,
    app: Router,
    mut told: watch::Receiver<Told>,
) -> std::io::Result<JoinHandle<UnixListener>> {
    listener.set_nonblocking(true)?;
    let listener = UnixListener::from_std(listener)?;
    let stop = async move {
        // The senders outlive the servers.
        told.wait_for(|told| *told != Told::Serve).await.ok();
    };
    Ok(tokio::spawn(http::serve(listener, app, stop)))
}
