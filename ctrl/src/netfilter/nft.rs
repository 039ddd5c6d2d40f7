//! flannel's tables by `nft`, each family's in one transaction.

mod listing;

use ipnet::IpNet;
use tracing::debug;

use super::command::{CommandError, run};
use super::iptables::Place;
use super::rules::{self, Family, Overlay, Rule};

pub(super) use listing::Chains;
use listing::TableText;

/// Tells whether the kernel masquerades with random ports. `--check` changes nothing.
const PROBE: &str = "table ip weft-probe {\n\tchain probe {\n\t\ttype nat hook postrouting priority 100;\n\t\t\
                     masquerade fully-random\n\t}\n}\n";

/// The table of what is only weft's.
const OWN_TABLE: &str = "inet weft";

/// The program, and what is known about it.
#[derive(Debug, Default)]
pub(super) struct Nft {
    /// `fully-random` works, once that was asked.
    random: Option<bool>,
}

/// What one of flannel's chains is, as `nft` writes it.
struct Form {
    name: &'static str,
    comment: &'static str,
    hook: &'static str,
}

impl Place {
    fn form(self) -> Form {
        match self {
            Self::Masquerade => Form {
                name: "postrtg",
                comment: "masquerading for the flannel network",
                hook: "type nat hook postrouting priority srcnat; policy accept;",
            },
            Self::Forward => Form {
                name: "forward",
                comment: "forwarding for the flannel network",
                hook: "type filter hook forward priority filter; policy accept;",
            },
        }
    }
}

impl Nft {
    /// Brings the table of a family into the wanted form, with these chains and no others of flannel.
    /// Returns whether something had to be changed.
    pub(super) async fn apply(
        &mut self,
        overlay: &Overlay,
        places: &[Place],
        fully_random: bool,
    ) -> Result<bool, CommandError> {
        let family = overlay.family();
        let there = read(family).await?;
        let wanted = self.wanted(overlay, places, fully_random).await?;
        if !differs(there.as_ref(), &wanted) {
            return Ok(false);
        }
        let script = script(family, there.as_ref(), &wanted);
        if let Err(CommandError::Refused { said, .. }) = load(&script).await {
            // A chain of the same name at another hook cannot be filled, only replaced.
            debug!(said, "replacing the whole table");
            let table = name(family);
            let anew = self::script(family, None, &wanted);
            load(&format!("add table {table}\ndelete table {table}\n{anew}")).await?;
        }
        Ok(true)
    }

    /// The lines that [`Nft::apply`] would give to `nft`.
    pub(super) async fn preview(
        &mut self,
        overlay: &Overlay,
        places: &[Place],
        fully_random: bool,
    ) -> Result<Vec<String>, CommandError> {
        let family = overlay.family();
        let there = read(family).await?;
        let wanted = self.wanted(overlay, places, fully_random).await?;
        if !differs(there.as_ref(), &wanted) {
            return Ok(Vec::new());
        }
        let script = script(family, there.as_ref(), &wanted);
        Ok(script.lines().map(|line| format!("nft {line}")).collect())
    }

    async fn wanted(
        &mut self,
        overlay: &Overlay,
        places: &[Place],
        fully_random: bool,
    ) -> Result<Vec<(Place, Option<Vec<String>>)>, CommandError> {
        let fully_random =
            fully_random && places.contains(&Place::Masquerade) && self.has_random().await?;
        let place =
            |place| (place, places.contains(&place).then(|| rules(place, overlay, fully_random)));
        Ok(Place::ALL.into_iter().map(place).collect())
    }

    async fn has_random(&mut self) -> Result<bool, CommandError> {
        if let Some(known) = self.random {
            return Ok(known);
        }
        let random = match run("nft", &["--check", "--file", "-"], PROBE).await {
            Ok(_) => true,
            Err(CommandError::Refused { said, .. }) => {
                debug!(said, "masquerading takes no random ports");
                false
            }
            Err(error) => return Err(error),
        };
        self.random = Some(random);
        Ok(random)
    }
}

/// Removes flannel's tables of these families; returns whether one was there.
pub(super) async fn remove(families: &[Family]) -> Result<bool, CommandError> {
    let tables: Vec<String> = families.iter().map(|family| name(*family)).collect();
    delete(&tables).await
}

/// Removes what is only weft's.
pub(super) async fn remove_own() -> Result<bool, CommandError> {
    delete(&[OWN_TABLE.to_owned()]).await
}

/// A chain of what is only weft's.
#[derive(Clone, Copy, Debug)]
pub(super) struct OwnChain {
    pub(super) name: &'static str,
    /// Where packets meet it, as `nft` writes that.
    pub(super) hook: &'static str,
}

impl OwnChain {
    /// Gives it these rules, or takes it away, and the table with the last of its chains. Returns whether
    /// something had to be changed.
    pub(super) async fn keep(self, rules: Option<&[String]>) -> Result<bool, CommandError> {
        match self.change(rules).await? {
            Some(script) => load(&script).await.map(|()| true),
            None => Ok(false),
        }
    }

    /// Gives it these rules, whatever it has.
    pub(super) async fn fill(self, rules: &[String]) -> Result<(), CommandError> {
        load(&self.filling(rules)).await
    }

    /// The lines that [`OwnChain::keep`] would give to `nft`.
    pub(super) async fn preview(
        self,
        rules: Option<&[String]>,
    ) -> Result<Vec<String>, CommandError> {
        let script = self.change(rules).await?.unwrap_or_default();
        Ok(script.lines().map(|line| format!("nft {line}")).collect())
    }

    /// Its rules, if it is there.
    pub(super) async fn rules(self) -> Result<Option<Vec<String>>, CommandError> {
        let Some(table) = own_table().await? else { return Ok(None) };
        let chain = table.chain(self.name).filter(|chain| chain.hook.as_deref() == Some(self.hook));
        Ok(chain.map(|chain| chain.rules.clone()))
    }

    /// How many packets its rules have dropped and counted.
    pub(super) async fn counts(self) -> Result<u64, CommandError> {
        let (family, table) = OWN_TABLE.split_once(' ').expect("a table has a family and a name");
        let text = run("nft", &["list", "chain", family, table, self.name], "").await?;
        Ok(listing::dropped(&text))
    }

    async fn change(self, wanted: Option<&[String]>) -> Result<Option<String>, CommandError> {
        let Some(wanted) = wanted else { return self.removal().await };
        let is_there = self.rules().await?.is_some_and(|there| there == wanted);
        Ok((!is_there).then(|| self.filling(wanted)))
    }

    /// Makes it, or replaces the rules of the one that is there, in one transaction.
    fn filling(self, rules: &[String]) -> String {
        let Self { name, hook } = self;
        let mut script = format!(
            "add table {OWN_TABLE}\nadd chain {OWN_TABLE} {name} {{ {hook} }}\n\
             flush chain {OWN_TABLE} {name}\n"
        );
        for rule in rules {
            script += &format!("add rule {OWN_TABLE} {name} {rule}\n");
        }
        script
    }

    async fn removal(self) -> Result<Option<String>, CommandError> {
        let Self { name, .. } = self;
        let there = own_table().await?.filter(|table| table.chain(name).is_some());
        Ok(there.map(|table| match table.chains() {
            1 => format!("delete table {OWN_TABLE}\n"),
            _ => format!("flush chain {OWN_TABLE} {name}\ndelete chain {OWN_TABLE} {name}\n"),
        }))
    }
}

async fn own_table() -> Result<Option<TableText>, CommandError> {
    let (family, table) = OWN_TABLE.split_once(' ').expect("a table has a family and a name");
    match run("nft", &["--stateless", "list", "table", family, table], "").await {
        Ok(text) => Ok(Some(TableText::parse(&text))),
        Err(CommandError::Refused { said, .. }) if said.contains("No such file") => Ok(None),
        Err(error) => Err(error),
    }
}

async fn delete(tables: &[String]) -> Result<bool, CommandError> {
    let there = run("nft", &["list", "tables"], "").await?;
    let is_there = |table: &&String| {
        there.lines().any(|line| line.strip_prefix("table ").map(str::trim) == Some(table.as_str()))
    };
    let script: String =
        tables.iter().filter(is_there).map(|table| format!("delete table {table}\n")).collect();
    if script.is_empty() {
        return Ok(false);
    }
    load(&script).await?;
    Ok(true)
}

/// All chains at hooks of the kernel.
pub(super) async fn chains() -> Result<Chains, CommandError> {
    Ok(Chains::parse(&run("nft", &["--json", "list", "chains"], "").await?))
}

/// A table as `nft` writes it.
pub(super) async fn table(family: &str, table: &str) -> Result<String, CommandError> {
    run("nft", &["--stateless", "list", "table", family, table], "").await
}

/// Whether any chain of a table accepts what comes from and what goes to a network.
pub(super) async fn accepts(
    family: &str,
    table: &str,
    network: IpNet,
) -> Result<bool, CommandError> {
    let text = self::table(family, table).await?;
    let accepts = |side: &str| {
        let wanted = format!("{side} {network} ");
        text.lines().any(|line| line.contains(&wanted) && line.trim_end().ends_with("accept"))
    };
    Ok(accepts("saddr") && accepts("daddr"))
}

async fn read(family: Family) -> Result<Option<TableText>, CommandError> {
    let arguments = ["--stateless", "list", "table", family.nft(), family.nft_table()];
    match run("nft", &arguments, "").await {
        Ok(text) => Ok(Some(TableText::parse(&text))),
        Err(CommandError::Refused { said, .. }) if said.contains("No such file") => Ok(None),
        Err(error) => Err(error),
    }
}

async fn load(script: &str) -> Result<(), CommandError> {
    run("nft", &["--file", "-"], script).await.map(drop)
}

fn name(family: Family) -> String {
    format!("{} {}", family.nft(), family.nft_table())
}

fn rules(place: Place, overlay: &Overlay, fully_random: bool) -> Vec<String> {
    let rules = match place {
        Place::Masquerade => rules::masquerade(overlay, fully_random),
        Place::Forward => rules::forward(overlay.network),
    };
    rules.iter().map(|rule: &Rule| rule.nft(overlay.family())).collect()
}

type Wanted = [(Place, Option<Vec<String>>)];

fn differs(there: Option<&TableText>, wanted: &Wanted) -> bool {
    wanted.iter().any(|(place, rules)| {
        let chain = there.and_then(|table| table.chain(place.form().name));
        match (chain, rules) {
            (None, None) => false,
            (Some(chain), Some(rules)) => {
                chain.hook.as_deref() != Some(place.form().hook) || chain.rules != *rules
            }
            _ => true,
        }
    })
}

/// One transaction. A chain that is there is emptied and filled, so that its hook is never away.
fn script(family: Family, there: Option<&TableText>, wanted: &Wanted) -> String {
    let (table, short) = (name(family), family.nft_table());
    let mut script = format!("add table {table} {{ comment \"rules for {short}\"; }}\n");
    for (place, rules) in wanted {
        let Form { name, comment, hook } = place.form();
        match rules {
            Some(rules) => {
                script +=
                    &format!("add chain {table} {name} {{ {hook} comment \"{comment}\"; }}\n");
                script += &format!("flush chain {table} {name}\n");
                for rule in rules {
                    script += &format!("add rule {table} {name} {rule}\n");
                }
            }
            None if there.is_some_and(|there| there.chain(name).is_some()) => {
                script += &format!("flush chain {table} {name}\ndelete chain {table} {name}\n");
            }
            None => {}
        }
    }
    script
}

#[cfg(test)]
mod tests;
