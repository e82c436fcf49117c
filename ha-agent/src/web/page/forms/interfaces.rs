//! Interfaces: addresses of the node and of the partner, shared addresses, what runs over them.

use serde_json::{Value, json};

use super::{Field, Input, take};
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
}

/// The form.
pub(in super::super) struct Form {
    /// In the order of the file.
    pub(in super::super) interfaces: Vec<Interface>,
    /// Interface and address of each shared address, as in the file.
    listed: Vec<(String, String)>,
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
            let base = ["node", "interfaces", &name];
            let field = |key: &str, label, input| {
                let mut field = Field::new(&base, key, label, input).read(file);
                field.name = format!("{name}.{key}");
                field
            };
            let mut shared = Field::new(
                &["shared_addresses"],
                "shared",
                "Shared addresses",
                Input::List,
            )
            .hint("With prefix length. They move with the active role.");
            shared.name = format!("{name}.shared");
            let own = listed.iter().filter(|(interface, _)| *interface == name);
            shared.value = own
                .map(|(_, address)| address.as_str())
                .collect::<Vec<_>>()
                .join(", ");
            Interface {
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
                web: web.is_some().then(|| {
                    let mut all = admitted.items().iter();
                    !admitted.is_some() || all.any(|admitted| admitted.text() == name)
                }),
                name,
            }
        });
        Self {
            interfaces: interfaces.collect(),
            listed,
        }
    }

    /// The changes that a posted form asks for.
    pub(in super::super) fn take(&mut self, posted: &Posted) -> Vec<Edit> {
        let mut edits: Vec<Edit> = Vec::new();
        let mut shared = self.listed.clone();
        let mut admitted = Vec::new();
        let mut changed = false;
        for interface in &mut self.interfaces {
            edits.extend(take(&mut interface.fields, posted));
            if interface.shared.take(posted).is_some() {
                replace(&mut shared, &interface.name, &interface.shared.value);
            }
            if let Some(web) = &mut interface.web {
                let wanted = posted.get(&format!("{}.web", interface.name)) == "yes";
                changed |= wanted != *web;
                *web = wanted;
                admitted.extend(wanted.then(|| interface.name.clone()));
            }
        }
        if shared != self.listed {
            let list = shared.iter();
            let list = list
                .map(|(interface, address)| json!({ "interface": interface, "address": address }));
            edits.push(Edit::new(&["shared_addresses"], list.collect::<Vec<_>>()));
        }
        if changed {
            let all = admitted.len() == self.interfaces.len();
            let value = if all { Value::Null } else { admitted.into() };
            edits.push(Edit::new(&["node", "web", "interfaces"], value));
        }
        edits
    }
}

/// Puts an interface's addresses where its old ones are, as far as there are any: the first of all gives the pair
/// its virtual id.
fn replace(shared: &mut Vec<(String, String)>, interface: &str, wanted: &str) {
    let wanted = wanted.split([',', ' ']).map(str::trim);
    let mut wanted = wanted.filter(|address| !address.is_empty());
    shared.retain_mut(|(owner, address)| {
        if owner != interface {
            return true;
        }
        match wanted.next() {
            Some(new) => {
                new.clone_into(address);
                true
            }
            None => false,
        }
    });
    shared.extend(wanted.map(|address| (interface.to_owned(), address.to_owned())));
}
