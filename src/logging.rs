//! Log lines go to stderr, with fields, at the level that `--v` asks for.

use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::time::SystemTime;

/// Starts logging for the whole process. flanneld's verbosity 0 is information, everything above
/// shows details too; negative numbers do not hide anything.
pub fn start(verbosity: i64) {
    let level = if verbosity >= 1 { LevelFilter::DEBUG } else { LevelFilter::INFO };
    // Fails only if logging was started before, and then it works.
    let _ = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_timer(SystemTime)
        .with_target(false)
        .with_writer(std::io::stderr)
        // It would be told on stderr, where a failure is a panic.
        .log_internal_errors(false)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .try_init();
}
