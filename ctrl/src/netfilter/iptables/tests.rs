use super::*;

const JUMP: &str = r#"-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG"#;

fn overlay(network: &str, subnet: &str) -> Overlay {
    let (network, subnet) = (network.parse().unwrap(), subnet.parse().unwrap());
    Overlay { network, subnet, fixed_source: false }
}

fn ours() -> Overlay {
    overlay("10.244.0.0/16", "10.244.1.0/24")
}

fn set(overlay: &Overlay) -> Vec<String> {
    Place::Masquerade.rules(overlay, true)
}

fn chain(sets: &[Vec<String>]) -> String {
    sets.iter().flatten().map(|rule| format!("-A FLANNEL-POSTRTG {rule}\n")).collect()
}

/// The rules of a table of nat as `iptables-save` prints them.
fn dump(hook: &str, chain: &str) -> String {
    format!(
        "# Generated\n*nat\n:PREROUTING ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n\
         :FLANNEL-POSTRTG - [0:0]\n{hook}\n{chain}COMMIT\n# Completed\n"
    )
}

fn wish(overlays: &[Overlay]) -> Wish<'_> {
    let rules = set(&overlays[0]);
    Wish { place: Place::Masquerade, rules, ours: overlays, keeps_others: true }
}

fn plan(wish: &Wish<'_>, dump: &str) -> Option<String> {
    wish.plan(Dump::parse(dump).table("nat"))
}

fn filled() -> String {
    format!(":FLANNEL-POSTRTG - [0:0]\n{}", chain(&[set(&ours())]))
}

#[test]
fn an_empty_host_gets_everything_at_once() {
    let overlays = [ours()];
    let expected = format!("*nat\n{}{JUMP}\nCOMMIT\n", filled());
    assert_eq!(plan(&wish(&overlays), "").unwrap(), expected);
}

#[test]
fn what_is_right_is_left_alone() {
    let overlays = [ours()];
    let mine = chain(&[set(&ours())]);
    assert_eq!(plan(&wish(&overlays), &dump(JUMP, &mine)), None);
    // Somebody else's rules around the jump are none of our business.
    let hook = format!("-A POSTROUTING -j KUBE-POSTROUTING\n{JUMP}\n-A POSTROUTING -o x -j ACCEPT");
    assert_eq!(plan(&wish(&overlays), &dump(&hook, &mine)), None);
}

#[test]
fn every_disorder_is_repaired_by_refilling_the_chain() {
    let overlays = [ours()];
    let mut swapped = set(&ours());
    swapped.swap(3, 4);
    let mut doubled = set(&ours());
    doubled.push(doubled[5].clone());
    let mut foreign = set(&ours());
    foreign.insert(0, "-s 192.0.2.0/24 -j ACCEPT".into());
    let without_random = Place::Masquerade.rules(&ours(), false);
    let half = set(&ours())[..3].to_vec();
    for wrong in [swapped, doubled, foreign, without_random, half, vec![]] {
        let script = plan(&wish(&overlays), &dump(JUMP, &chain(&[wrong]))).unwrap();
        assert_eq!(script, format!("*nat\n{}COMMIT\n", filled()));
    }
}

#[test]
fn the_jump_is_there_once() {
    let overlays = [ours()];
    let mine = chain(&[set(&ours())]);
    let other = "-A POSTROUTING -j KUBE-POSTROUTING";
    let script = |hook: &str| plan(&wish(&overlays), &dump(hook, &mine)).unwrap();
    assert_eq!(script(other), format!("*nat\n{JUMP}\nCOMMIT\n"));
    let delete = JUMP.replace("-A", "-D");
    assert_eq!(script(&format!("{JUMP}\n{other}\n{JUMP}")), format!("*nat\n{delete}\nCOMMIT\n"));
    // A jump in other words, and rules with our comment from versions without chains.
    let stale = r#"POSTROUTING -s 10.9.0.0/16 -m comment --comment "flanneld masq" -j RETURN"#;
    let bare = "POSTROUTING -j FLANNEL-POSTRTG";
    assert_eq!(
        script(&format!("-A {stale}\n{JUMP}\n-A {bare}")),
        format!("*nat\n-D {stale}\n-D {bare}\nCOMMIT\n")
    );
}

#[test]
fn the_jump_takes_the_place_of_rules_without_chains() {
    let overlays = [ours()];
    let old = [
        "POSTROUTING -s 10.244.0.0/16 -d 10.244.0.0/16 -j RETURN",
        "POSTROUTING -s 10.244.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE --random-fully",
    ];
    let hook = format!("-A POSTROUTING -j KUBE-POSTROUTING\n-A {}\n-A {}", old[0], old[1]);
    let insert = JUMP.replace("-A POSTROUTING", "-I POSTROUTING 2");
    assert_eq!(
        plan(&wish(&overlays), &dump(&hook, "")).unwrap(),
        format!("*nat\n{}{insert}\n-D {}\n-D {}\nCOMMIT\n", filled(), old[0], old[1])
    );
    // Beside the jump they are somebody else's, and those of another network always are.
    let mine = chain(&[set(&ours())]);
    assert_eq!(plan(&wish(&overlays), &dump(&format!("{hook}\n{JUMP}"), &mine)), None);
    let apart = hook.replace("10.244", "10.9");
    let script = plan(&wish(&overlays), &dump(&apart, &mine)).unwrap();
    assert_eq!(script, format!("*nat\n{JUMP}\nCOMMIT\n"));
}

#[test]
fn another_daemons_rules_stay_and_our_own_of_before_go() {
    let overlays = [ours(), overlay("10.5.0.0/16", "10.5.7.0/24")];
    let (mine, before) = (set(&overlays[0]), set(&overlays[1]));
    let theirs = set(&overlay("10.9.0.0/16", "10.9.3.0/24"));
    let is_right =
        |sets: &[Vec<String>]| plan(&wish(&overlays), &dump(JUMP, &chain(sets))).is_none();
    assert!(is_right(&[theirs.clone(), mine.clone()]));
    assert!(is_right(&[mine.clone(), theirs.clone()]));
    let script =
        plan(&wish(&overlays), &dump(JUMP, &chain(&[before.clone(), theirs.clone()]))).unwrap();
    let expected = chain(&[theirs.clone(), mine.clone()]);
    assert_eq!(script, format!("*nat\n:FLANNEL-POSTRTG - [0:0]\n{expected}COMMIT\n"));
    // Half a set is nobody's.
    let half = theirs[..4].to_vec();
    assert!(!is_right(&[mine.clone(), half]));
    // Of another subnet of our own network, it is ours.
    let moved = set(&overlay("10.244.0.0/16", "10.244.9.0/24"));
    assert!(!is_right(&[mine, moved]));
}

#[test]
fn what_is_not_wanted_goes_and_other_daemons_keep_theirs() {
    let overlays = [ours()];
    let unwanted = Wish { rules: vec![], ..wish(&overlays) };
    let mine = chain(&[set(&ours())]);
    let delete = JUMP.replace("-A", "-D");
    let end = "-F FLANNEL-POSTRTG\n-X FLANNEL-POSTRTG\nCOMMIT\n";
    assert_eq!(
        plan(&unwanted, &dump(JUMP, &mine)).unwrap(),
        format!("*nat\n:FLANNEL-POSTRTG - [0:0]\n{delete}\n{end}")
    );
    assert_eq!(plan(&unwanted, &dump(JUMP, "")).unwrap(), format!("*nat\n{delete}\n{end}"));
    assert_eq!(plan(&unwanted, ""), None);
    // Without ours in their place, rules without a comment are somebody else's.
    let bare = dump("-A POSTROUTING -s 10.244.0.0/16 -d 10.244.0.0/16 -j RETURN", "");
    assert_eq!(plan(&unwanted, &bare.replace(":FLANNEL-POSTRTG - [0:0]\n", "")), None);
    let theirs = set(&overlay("10.9.0.0/16", "10.9.3.0/24"));
    assert_eq!(plan(&unwanted, &dump(JUMP, &chain(std::slice::from_ref(&theirs)))), None);
    let all = Wish { rules: vec![], keeps_others: false, ..wish(&overlays) };
    assert!(plan(&all, &dump(JUMP, &chain(&[theirs]))).unwrap().ends_with(end));
    // A chain that somebody else's chain leads into cannot be deleted.
    let hook = format!("{JUMP}\n-A MINE -j FLANNEL-POSTRTG");
    let script = plan(&unwanted, &dump(&hook, &mine)).unwrap();
    assert_eq!(script, format!("*nat\n:FLANNEL-POSTRTG - [0:0]\n{delete}\nCOMMIT\n"));
}

#[test]
fn a_policy_to_drop_is_found_unless_something_accepts() {
    let network = "10.244.0.0/16".parse().unwrap();
    let drops = |text: &str| {
        let dump = Dump::parse(&format!("*filter\n{text}COMMIT\n"));
        plan::drops_forwarded(dump.table("filter").unwrap(), network)
    };
    assert!(!drops(":FORWARD ACCEPT [0:0]\n"));
    assert!(drops(":FORWARD DROP [0:0]\n"));
    assert!(drops(":FORWARD DROP [0:0]\n-A FORWARD -s 10.244.0.0/16 -j ACCEPT\n"));
    assert!(!drops(
        ":FORWARD DROP [0:0]\n-A USER -s 10.244.0.0/16 -j ACCEPT\n-A USER -d 10.244.0.0/16 -j ACCEPT\n"
    ));
    assert!(!drops(":FORWARD DROP [0:0]\n:FLANNEL-FWD - [0:0]\n"));
}
