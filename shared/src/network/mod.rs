//! libp2p. (In progress.)
