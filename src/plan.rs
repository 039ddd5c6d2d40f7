//! `weft plan`: what the daemon would change on this host, changing nothing.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Context, Result};
use tokio::runtime;
use weft_ctrl::controller::DEVICE_NAME;
use weft_ctrl::controller::preview::{Preview, Step, preview};

use crate::admin::client::{ask, decode};
use crate::admin::{Question, Status};
use crate::daemon::owner;
use crate::options::Options;

/// There is something to change; nothing is 0, and 1 that it cannot be said.
pub(crate) const CHANGES: u8 = 3;

/// Prints what a daemon with these options would change.
pub(crate) fn run(options: &Options, json: bool) -> ExitCode {
    match foretell(options) {
        Ok(preview) => {
            let text = if json { json_of(&preview) } else { text_of(&preview) };
            // A closed pipe is nobody's loss.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::from(if preview.steps.is_empty() { 0 } else { CHANGES })
        }
        Err(error) => {
            eprintln!("weft: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn foretell(options: &Options) -> Result<Preview> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("could not start the runtime")?;
    let outcome = runtime.block_on(preview(options.control.clone()));
    // What still runs, such as a plugin that gives no token, is not waited for.
    runtime.shutdown_background();
    let mut preview = outcome?;
    if preview.backend == "udp" {
        preview.obstacles.extend(taken_device(options));
    }
    Ok(preview)
}

/// Whoever has the device has the port as well: flanneld, or another weft. The daemon that these options
/// are for is no obstacle. It is asked, as it may be in a container, where its process has another number.
fn taken_device(options: &Options) -> Option<String> {
    let answer = ask(&options.admin_socket, Question::Status).ok();
    let own = answer.and_then(|answer| decode::<Status>(&answer).ok());
    if own.and_then(|own| own.device).is_some_and(|device| device.name == DEVICE_NAME) {
        return None;
    }
    let owner = owner::of_device(DEVICE_NAME)?;
    Some(format!("{DEVICE_NAME} belongs to {owner}. Stop it before weft is started"))
}

fn json_of(preview: &Preview) -> String {
    let text = serde_json::to_string(preview).expect("texts and numbers can always be written");
    format!("{text}\n")
}

fn text_of(preview: &Preview) -> String {
    let Preview { backend, interface, mtu, lease, steps, obstacles } = preview;
    let mut text = format!("{backend} over {interface}, MTU {mtu}, subnet {lease}\n");
    for obstacle in obstacles {
        let _ = writeln!(text, "! {obstacle}");
    }
    for Step { part, step } in steps {
        let _ = writeln!(text, "{}: {step}", part.name());
    }
    if steps.is_empty() {
        text.push_str("Nothing would be changed.\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_ctrl::controller::preview::Part;

    fn example() -> Preview {
        Preview {
            backend: "vxlan",
            interface: "eth0".into(),
            mtu: 1450,
            lease: "10.244.1.0-24".into(),
            steps: vec![Step { part: Part::Kernel, step: "link delete flannel.7".into() }],
            obstacles: vec!["A route is in the way".into()],
        }
    }

    #[test]
    fn it_reads_as_a_list() {
        let expected = "vxlan over eth0, MTU 1450, subnet 10.244.1.0-24\n\
                        ! A route is in the way\nkernel: link delete flannel.7\n";
        assert_eq!(text_of(&example()), expected);
        let nothing = Preview { steps: Vec::new(), ..example() };
        assert!(text_of(&nothing).ends_with("Nothing would be changed.\n"));
    }

    #[test]
    fn json_names_the_part_of_each_step() {
        let value: serde_json::Value = serde_json::from_str(&json_of(&example())).unwrap();
        assert_eq!(value["steps"][0]["part"], "kernel");
        assert_eq!(value["mtu"], 1450);
    }
}
