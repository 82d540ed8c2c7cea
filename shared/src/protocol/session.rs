//! Numbering, acknowledgement and resend. (In progress.)
