//! How a process that serves is asked to stop.

use tokio::signal::unix::{SignalKind, signal as listen};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Ctrl-C.
    Interrupt,
    /// SIGTERM, as service managers send it.
    Terminate,
}

pub async fn signal() -> anyhow::Result<Stop> {
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = terminate.recv() => Stop::Terminate,
        _ = interrupt.recv() => Stop::Interrupt,
    })
}

/// By either signal.
pub async fn asked() -> anyhow::Result<()> {
    signal().await.map(drop)
}
