//! Reading a tree: sections with known keys, lists, values; every problem noted, none final.

use super::diagnostic::{PROBLEMS_MAX, Problem, Span, quote};
use super::tree::{Kind, NodeId, Tree};
use super::values::{self, Fault, Parsed, Scalar};

/// A value and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) span: Span,
}

/// What became of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field<T> {
    /// Not written, or written as null.
    Absent,
    /// Written, and refused: reported already, so nothing may be concluded from it.
    Bad,
    /// Written.
    Given(At<T>),
}

impl<T> Field<T> {
    /// The value with its place.
    pub(crate) fn given(&self) -> Option<&At<T>> {
        match self {
            Self::Given(at) => Some(at),
            Self::Absent | Self::Bad => None,
        }
    }

    /// The value.
    pub(crate) fn value(&self) -> Option<&T> {
        self.given().map(|at| &at.value)
    }

    /// Whether the key is certainly not there.
    pub(crate) fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }

    /// The value, or what holds if the key is absent; none if it was refused.
    pub(crate) fn or(self, default: impl FnOnce() -> T) -> Option<T> {
        match self {
            Self::Absent => Some(default()),
            Self::Bad => None,
            Self::Given(at) => Some(at.value),
        }
    }
}

impl<T: Copy> Field<T> {
    /// As [`Field::or`], without giving the field away.
    pub(crate) fn or_default(&self, default: T) -> Option<T> {
        match self {
            Self::Absent => Some(default),
            Self::Bad => None,
            Self::Given(at) => Some(at.value),
        }
    }
}

/// The items of a list.
pub(crate) struct Items<T> {
    /// Those that could be read.
    pub(crate) list: Vec<T>,
    /// Whether these are certainly all that were written.
    pub(crate) known: bool,
    /// Where the list is, or would be.
    pub(crate) span: Span,
}

/// Reads one tree and collects what is wrong with it.
pub(crate) struct Walk<'t> {
    tree: &'t Tree<'t>,
    problems: Vec<Problem>,
}

/// A map whose keys are known.
pub(crate) struct Section<'t> {
    /// Where it begins.
    pub(crate) span: Span,
    entries: Vec<(&'t str, Span, NodeId)>,
    /// Known keys that are probably meant by unknown ones.
    misspelt: Vec<&'static str>,
    cut: bool,
}

impl<'t> Walk<'t> {
    pub(crate) fn new(tree: &'t Tree<'t>, problems: Vec<Problem>) -> Self {
        Self { tree, problems }
    }

    pub(crate) fn error(&mut self, span: Span, what: impl Into<String>, remedy: impl Into<String>) {
        if !self.full() {
            self.problems.push(Problem::error(span, what, remedy));
        }
    }

    pub(crate) fn warn(&mut self, span: Span, what: impl Into<String>, remedy: impl Into<String>) {
        if !self.full() {
            self.problems.push(Problem::warning(span, what, remedy));
        }
    }

    /// Whether no more problems are wanted.
    fn full(&self) -> bool {
        self.problems.len() >= PROBLEMS_MAX
    }

    pub(crate) fn into_problems(self) -> Vec<Problem> {
        self.problems
    }

    fn fault<T>(&mut self, span: Span, fault: Fault) -> Field<T> {
        self.error(span, fault.what, fault.remedy);
        Field::Bad
    }

    /// A map of which `known` lists the keys. Unknown and repeated ones are reported here.
    pub(crate) fn section(
        &mut self,
        id: NodeId,
        what: &str,
        known: &[&'static str],
    ) -> Option<Section<'t>> {
        let tree = self.tree;
        let node = tree.node(id)?;
        let Kind::Map(entries) = &node.kind else {
            if !matches!(node.kind, Kind::Lost) {
                let keys = known.iter().take(4).copied().collect::<Vec<_>>();
                self.error(
                    node.span,
                    format!("{what} must be a map of keys and values"),
                    format!("write `key: value` lines with {}, ...", keys.join(", ")),
                );
            }
            return None;
        };
        let mut section = Section {
            span: node.span,
            entries: Vec::with_capacity(known.len().min(entries.len())),
            misspelt: Vec::new(),
            cut: node.cut,
        };
        for &(key, value) in entries {
            if self.full() {
                section.cut = true;
                break;
            }
            let Some(key) = tree.node(key) else { continue };
            if matches!(key.kind, Kind::Lost) {
                continue;
            }
            let Kind::Scalar { text, .. } = &key.kind else {
                self.error(key.span, "a key must be a single word", remedy_keys(known));
                continue;
            };
            let Some(name) = known.iter().find(|name| **name == text.as_ref()) else {
                let meant = closest(text, known);
                section.misspelt.extend(meant);
                self.unknown_key(key.span, text, what, meant, known);
                continue;
            };
            if section.entries.iter().any(|(seen, ..)| seen == name) {
                self.error(
                    key.span,
                    format!("`{name}` is given twice in {what}"),
                    "keep one of the two",
                );
                continue;
            }
            section.entries.push((text.as_ref(), key.span, value));
        }
        Some(section)
    }

    fn unknown_key(
        &mut self,
        span: Span,
        key: &str,
        what: &str,
        meant: Option<&str>,
        known: &[&str],
    ) {
        let remedy = match meant {
            _ if key == "<<" => "merge keys are not supported: write the keys out".to_owned(),
            Some(meant) => format!("did you mean `{meant}`?"),
            None => remedy_keys(known),
        };
        self.error(
            span,
            format!("unknown key {} in {what}", quote(key)),
            remedy,
        );
    }

    /// Reads every item of a list.
    pub(crate) fn items<T>(
        &mut self,
        section: &Section<'_>,
        key: &str,
        read: impl Fn(&mut Self, NodeId) -> Option<T>,
    ) -> Items<T> {
        let mut items = Items {
            list: Vec::new(),
            known: true,
            span: section.place(key),
        };
        let Some((_, _, id)) = section.find(key) else {
            items.known = section.missing::<()>(key).is_absent();
            return items;
        };
        let tree = self.tree;
        let Some(node) = tree.node(id) else {
            return items;
        };
        match &node.kind {
            Kind::List(ids) => {
                items.known = !node.cut;
                for &id in ids {
                    match read(self, id) {
                        Some(item) => items.list.push(item),
                        None => items.known = false,
                    }
                }
            }
            Kind::Scalar { text, plain }
                if values::is_null(Scalar {
                    text,
                    plain: *plain,
                }) => {}
            Kind::Lost => items.known = false,
            Kind::Scalar { .. } | Kind::Map(_) => {
                items.known = false;
                self.error(
                    node.span,
                    format!("`{key}` must be a list"),
                    "write each item on a line of its own that begins with `- `",
                );
            }
        }
        items
    }

    /// One value or a list of them.
    pub(crate) fn one_or_more<T>(
        &mut self,
        section: &Section<'_>,
        key: &str,
        parse: impl Fn(Scalar<'_>) -> Parsed<T>,
    ) -> Items<At<T>> {
        let node = section.find(key).and_then(|(_, _, id)| self.tree.node(id));
        if node.is_some_and(|node| matches!(node.kind, Kind::List(_))) {
            return self.items(section, key, |walk, id| {
                match walk.scalar(id, section.place(key), key, &parse) {
                    Field::Given(at) => Some(at),
                    Field::Absent => {
                        let what = format!("an item of `{key}` has no value");
                        walk.error(section.place(key), what, "write one, or remove the item");
                        None
                    }
                    Field::Bad => None,
                }
            });
        }
        let field = self.value(section, key, parse);
        Items {
            known: !matches!(field, Field::Bad),
            span: section.place(key),
            list: match field {
                Field::Given(at) => vec![at],
                Field::Absent | Field::Bad => Vec::new(),
            },
        }
    }

    /// A sub-map, or nothing if absent, null or lost.
    pub(crate) fn map(&mut self, section: &Section<'_>, key: &str) -> Field<NodeId> {
        let Some((_, span, id)) = section.find(key) else {
            return section.missing(key);
        };
        match self.tree.node(id).map(|node| &node.kind) {
            Some(Kind::Scalar { text, plain })
                if values::is_null(Scalar {
                    text,
                    plain: *plain,
                }) =>
            {
                Field::Absent
            }
            Some(Kind::Lost) | None => Field::Bad,
            Some(_) => Field::Given(At { value: id, span }),
        }
    }

    /// A single value.
    pub(crate) fn value<T>(
        &mut self,
        section: &Section<'_>,
        key: &str,
        parse: impl FnOnce(Scalar<'_>) -> Parsed<T>,
    ) -> Field<T> {
        match section.find(key) {
            Some((_, span, id)) => self.scalar(id, span, key, parse),
            None => section.missing(key),
        }
    }

    fn scalar<T>(
        &mut self,
        id: NodeId,
        key_span: Span,
        key: &str,
        parse: impl FnOnce(Scalar<'_>) -> Parsed<T>,
    ) -> Field<T> {
        let Some(node) = self.tree.node(id) else {
            return Field::Absent;
        };
        match &node.kind {
            Kind::Scalar { text, plain } => {
                let scalar = Scalar {
                    text,
                    plain: *plain,
                };
                if values::is_null(scalar) {
                    return Field::Absent;
                }
                match parse(scalar) {
                    Ok(value) => Field::Given(At {
                        value,
                        span: node.span,
                    }),
                    Err(fault) => self.fault(node.span, fault),
                }
            }
            Kind::List(_) | Kind::Map(_) => {
                let kind = if matches!(node.kind, Kind::List(_)) {
                    "a list"
                } else {
                    "a map"
                };
                self.error(
                    node.span.max(key_span),
                    format!("`{key}` must be a single value, not {kind}"),
                    format!("write `{key}: value`"),
                );
                Field::Bad
            }
            Kind::Lost => Field::Bad,
        }
    }

    /// A value that must be there.
    pub(crate) fn required<T>(
        &mut self,
        section: &Section<'_>,
        key: &str,
        example: &str,
        parse: impl FnOnce(Scalar<'_>) -> Parsed<T>,
    ) -> Field<T> {
        let field = self.value(section, key, parse);
        if field.is_absent() {
            self.missing(section, key, example);
            return Field::Bad;
        }
        field
    }

    /// Reports a key that is not there.
    pub(crate) fn missing(&mut self, section: &Section<'_>, key: &str, example: &str) {
        let place = section.find(key).map_or(section.span, |(_, span, _)| span);
        self.error(
            place,
            format!("`{key}` has no value"),
            format!("add for example `{key}: {example}`"),
        );
    }
}

impl Section<'_> {
    fn find(&self, key: &str) -> Option<(&str, Span, NodeId)> {
        self.entries.iter().find(|(name, ..)| *name == key).copied()
    }

    /// Whether a key is there, with or without a value.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.find(key).is_some()
    }

    /// Where a key stands, or else the section.
    pub(crate) fn place(&self, key: &str) -> Span {
        self.find(key).map_or(self.span, |(_, span, _)| span)
    }

    /// What a key that was not found means: it may have been written wrongly, or where the section
    /// was cut short by a syntax error.
    fn missing<T>(&self, key: &str) -> Field<T> {
        if self.cut || self.misspelt.contains(&key) {
            Field::Bad
        } else {
            Field::Absent
        }
    }
}

fn remedy_keys(known: &[&str]) -> String {
    format!("known here: {}", known.join(", "))
}

/// The known key that was probably meant.
fn closest<'k>(key: &str, known: &[&'k str]) -> Option<&'k str> {
    const LONGEST: usize = 40;
    if key.len() > LONGEST {
        return None;
    }
    let key = key.to_ascii_lowercase().replace('-', "_");
    known
        .iter()
        .map(|name| (distance(&key, name), *name))
        .filter(|(distance, name)| *distance <= name.len().min(key.len()) / 3)
        .min()
        .map(|(_, name)| name)
}

/// Least number of letters to insert, delete, replace or swap with the next.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let at = |row: &[usize], n: usize| row.get(n).copied().unwrap_or(usize::MAX / 2);
    let mut above: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let mut best = (at(&last, j) + usize::from(x != y))
                .min(at(&last, j + 1) + 1)
                .min(at(&row, j) + 1);
            let swapped = i > 0 && j > 0 && a.get(i - 1) == Some(y) && b.get(j - 1) == Some(x);
            if swapped {
                best = best.min(at(&above, j - 1) + 1);
            }
            row.push(best);
        }
        above = std::mem::replace(&mut last, row);
    }
    at(&last, b.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised() {
        let known = ["address", "partner", "ha_checks", "gateway", "name"];
        for (slip, meant) in [
            ("adress", Some("address")),
            ("addres", Some("address")),
            ("ha-checks", Some("ha_checks")),
            ("HA_Checks", Some("ha_checks")),
            ("gatewya", Some("gateway")),
            ("nmae", Some("name")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(closest(slip, &known), meant, "{slip}");
        }
        assert_eq!(closest(&"x".repeat(10_000), &known), None);
    }

    #[test]
    fn distances() {
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", "abc"), 0);
        assert_eq!(distance("abc", "acb"), 1);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
