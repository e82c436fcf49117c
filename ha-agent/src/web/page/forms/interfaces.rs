//! Interfaces: addresses of the node and of the partner, shared addresses, what runs over them; new ones, and those
//! that go.

use serde_json::{Map, Value, json};

use super::{Field, Input, NEW, take};
use crate::config::edit::{Edit, Written};
use crate::web::page::visitor::Posted;

/// An interface in the form.
pub(in super::super) struct Interface {
    /// Its logical name.
    pub(in super::super) name: String,
    /// Its keys in the section `node`.
    pub(in super::super) fields: Vec<Field>,
    /// Its shared addresses.
    pub(in super::super) shared: Field,
    /// Whether the page may be used at its addresses; none if the node has no page.
    pub(in super::super) web: Option<bool>,
    /// Whether it is to be removed.
    pub(in super::super) gone: bool,
}

/// The form.
pub(in super::super) struct Form {
    /// In the order of the file.
    pub(in super::super) interfaces: Vec<Interface>,
    /// One that is not in the file yet; its name is its first field.
    pub(in super::super) fresh: Interface,
    /// Interface and address of each shared address, as in the file.
    listed: Vec<(String, String)>,
    /// Whether the page may be used at the addresses of some interfaces only.
    limited: bool,
}

impl Form {
    /// Of a file.
    pub(in super::super) fn of(file: &Written) -> Self {
        let listed: Vec<(String, String)> = file
            .get(&["shared_addresses"])
            .items()
            .iter()
            .map(|item| {
                (
                    item.get(&["interface"]).text(),
                    item.get(&["address"]).text(),
                )
            })
            .collect();
        let web = file.get(&["node", "web"]);
        let admitted = web.get(&["interfaces"]);
        let interfaces = file.get(&["node", "interfaces"]).items().iter();
        let interfaces = interfaces.map(|item| {
            let name = item.get(&["name"]).text();
            let mut interface = Interface::blank(&name, &name);
            for field in &mut interface.fields {
                *field = field.clone().read(file);
            }
            let own = listed.iter().filter(|(interface, _)| *interface == name);
            interface.shared.value = own
                .map(|(_, address)| address.as_str())
                .collect::<Vec<_>>()
                .join(", ");
            interface.web = web.is_some().then(|| {
                let mut all = admitted.items().iter();
                !admitted.is_some() || all.any(|admitted| admitted.text() == name)
            });
            interface
        });
        let mut fresh = Interface::blank("-", NEW);
        let mut name = Field::new(&["node", "interfaces", "-"], "name", "Name", Input::Text)
            .hint("As the other sections of the file call it; the same on both nodes.");
        name.name = format!("{NEW}.name");
        fresh.fields.insert(0, name);
        fresh.web = web.is_some().then_some(true);
        Self {
            interfaces: interfaces.collect(),
            fresh,
            listed,
            limited: admitted.is_some(),
        }
    }

    /// The changes that a posted form asks for.
    pub(in super::super) fn take(&mut self, posted: &Posted) -> Vec<Edit> {
        let mut edits: Vec<Edit> = Vec::new();
        let mut shared = Addresses::of(&self.listed);
        let mut admitted = Vec::new();
        let (mut changed, mut all) = (false, true);
        for interface in &mut self.interfaces {
            let name = &interface.name;
            interface.gone = posted.get(&format!("{name}.remove")) == "yes";
            if interface.gone {
                edits.push(Edit::new(&["node", "interfaces", name], Value::Null));
                shared.put(name, "");
                changed |= self.limited && interface.web == Some(true);
                continue;
            }
            edits.extend(take(&mut interface.fields, posted));
            if interface.shared.take(posted).is_some() {
                shared.put(name, &interface.shared.value);
            }
            if let Some(web) = &mut interface.web {
                let wanted = posted.get(&format!("{name}.web")) == "yes";
                changed |= wanted != *web;
                all &= wanted;
                *web = wanted;
                admitted.extend(wanted.then(|| name.clone()));
            }
        }
        if let Some((name, edit)) = self.fresh.taken(posted) {
            edits.push(edit);
            shared.put(&name, &self.fresh.shared.value);
            if let Some(wanted) = self.fresh.web {
                changed |= wanted == self.limited;
                all &= wanted;
                admitted.extend(wanted.then_some(name));
            }
        }
        edits.extend(shared.edits());
        if changed {
            let value = if all { Value::Null } else { admitted.into() };
            edits.push(Edit::new(&["node", "web", "interfaces"], value));
        }
        edits
    }
}

impl Interface {
    /// With empty fields: `at` in the list of the file, and so called in the form.
    fn blank(at: &str, called: &str) -> Self {
        let base = ["node", "interfaces", at];
        let field = |key: &str, label, input| {
            let mut field = Field::new(&base, key, label, input);
            field.name = format!("{called}.{key}");
            field
        };
        let path = ["shared_addresses"];
        let mut shared = Field::new(&path, "shared", "Shared addresses", Input::List)
            .hint("With prefix length. They move with the active role.");
        shared.name = format!("{called}.shared");
        Self {
            name: at.to_owned(),
            fields: vec![
                field("device", "Device", Input::Text).hint("As the kernel calls it."),
                field("address", "Own address", Input::List)
                    .hint("With prefix length; none = a heartbeat link."),
                field("partner", "Partner's address", Input::List),
                field("gateway", "Gateway", Input::List)
                    .hint("If it does not answer, this link counts as failed."),
                field("ha_checks", "Use for HA checks", Input::Switch).default("false"),
            ],
            shared,
            web: None,
            gone: false,
        }
    }

    /// Of one that is not in the file: its name, and the change that puts it there; none if nothing is filled in.
    fn taken(&mut self, posted: &Posted) -> Option<(String, Edit)> {
        let keys = take(&mut self.fields, posted);
        let shared = self.shared.take(posted);
        if keys.is_empty() && shared.is_none() {
            return None;
        }
        if let Some(web) = &mut self.web {
            *web = posted.get(&format!("{NEW}.web")) == "yes";
        }
        let keys = keys.into_iter();
        let keys = keys.filter_map(|mut edit| Some((edit.path.pop()?, edit.value)));
        let interface: Map<String, Value> = keys.collect();
        let name = posted.get(&format!("{NEW}.name")).to_owned();
        Some((name, Edit::new(&["node", "interfaces", "-"], interface)))
    }
}

/// Shared addresses as they are to be.
struct Addresses<'f> {
    /// As in the file: interface, address, and what is to stand there.
    listed: Vec<(&'f str, &'f str, Option<String>)>,
    /// Behind them: interface and address.
    added: Vec<(String, String)>,
}

impl<'f> Addresses<'f> {
    fn of(listed: &'f [(String, String)]) -> Self {
        let listed = listed.iter();
        let listed = listed.map(|(owner, address)| (&**owner, &**address, Some(address.clone())));
        Self {
            listed: listed.collect(),
            added: Vec::new(),
        }
    }

    /// Puts an interface's addresses where its old ones are, as far as there are any: the first of all gives the pair
    /// its virtual id.
    fn put(&mut self, interface: &str, wanted: &str) {
        let wanted = wanted.split([',', ' ']).map(str::trim);
        let mut wanted = wanted.filter(|address| !address.is_empty());
        let own = self.listed.iter_mut();
        for (_, _, address) in own.filter(|(owner, ..)| *owner == interface) {
            *address = wanted.next().map(str::to_owned);
        }
        let rest = wanted.map(|address| (interface.to_owned(), address.to_owned()));
        self.added.extend(rest);
    }

    fn edits(self) -> Vec<Edit> {
        const LIST: &str = "shared_addresses";
        let listed = self.listed.into_iter().enumerate();
        // From the last on, since numbers behind one that goes change.
        let changed = listed.rev().filter_map(|(index, (_, old, new))| match new {
            None => Some(Edit::new(&[LIST, &index.to_string()], Value::Null)),
            Some(new) if new != old => Some(Edit::new(&[LIST, &index.to_string(), "address"], new)),
            Some(_same) => None,
        });
        let added = self.added.into_iter().map(|(interface, address)| {
            let item = json!({ "interface": interface, "address": address });
            Edit::new(&[LIST, "-"], item)
        });
        changed.chain(added).collect()
    }
}
