//! Two devices and what can happen between them. Time and randomness are the tests'.

mod hostile;
mod link;
mod node;
mod oracle;
mod rules;
mod table;
