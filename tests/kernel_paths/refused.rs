//! What cannot work is said, and nothing is claimed.

use crate::world::{Families, World};

#[test]
fn what_cannot_work_ends_the_start_and_names_the_way_out() {
    let rows = [
        (r#"{"Type":"host-gw"}"#, "--public-ip=203.0.113.7", "Leave out --public-ip"),
        (r#"{"Type":"ipip"}"#, "--v=0", r#"Use \"vxlan\""#),
        (r#"{"Type":"wireguard"}"#, "--v=0", r#"Use \"vxlan\""#),
        (r#"{"Type":"vlan"}"#, "--v=0", "unknown"),
        ("{}", "--v=0", "without a Type"),
    ];
    for (backend, flag, sentence) in rows {
        let Some(world) = World::new(Families::V4, backend) else { return };
        let (code, text) = world.left.refused(&["--iface=u1", flag]);
        let text = text.replace("\\\\", "\\").replace('"', "\\\"").replace("\\\\\"", "\\\"");
        assert_eq!(code, Some(1), "{backend}: {text}");
        assert!(text.contains(sentence), "{backend}: {text}");
        assert!(world.leases.all().is_empty(), "nothing is claimed");
        assert!(!std::path::Path::new(&world.left.file("subnet.env.new")).exists());
    }
}
