//! Where things stand in a text, and the text with something else there. Nothing here need be right about every
//! way to write YAML: the caller reads the result again and compares.

use super::super::tree::{Kind, Node, NodeId, Step, Tree};
use super::written::Written;

/// A step on the way to a place.
#[derive(Clone, Copy, Debug)]
pub(super) enum Way<'w> {
    Key(&'w str),
    Index(usize),
}

/// A text and its tree.
struct Page<'t> {
    text: &'t str,
    tree: Tree<'t>,
}

/// The text with a value at the end of a way; nothing, if it cannot be put there alone.
pub(super) fn put(text: &str, way: &[Way<'_>], value: &Written) -> Option<String> {
    let (tree, _) = Tree::parse(text);
    let page = Page { text, tree };
    let (last, above) = way.split_last()?;
    let parent = page.node(above)?;
    match (&parent.kind, last) {
        (Kind::Map(entries), Way::Key(key)) => {
            let position = entries.iter().position(|(id, _)| page.says(*id, key));
            match (position, value.is_some()) {
                (Some(at), true) => page.replace_entry(parent, *entries.get(at)?, value),
                (Some(_), false) if entries.len() == 1 || page.is_flow(parent) => None,
                (Some(at), false) => page.cut(entries.get(at)?.0, entries.get(at)?.1, None),
                (None, true) => page.insert(parent, entries, key, value),
                (None, false) => Some(text.to_owned()),
            }
        }
        (Kind::List(items), Way::Index(index)) => {
            let item = *items.get(*index)?;
            if value.is_some() {
                page.replace_item(parent, item, value)
            } else if items.len() == 1 || page.is_flow(parent) {
                None
            } else {
                page.cut(item, item, Some(page.dash(item)?))
            }
        }
        _ => None,
    }
}

/// The text with one more item in the list at the end of a way.
pub(super) fn append(text: &str, way: &[Way<'_>], item: &Written) -> Option<String> {
    let (tree, _) = Tree::parse(text);
    let page = Page { text, tree };
    let parent = page.node(way)?;
    let Kind::List(items) = &parent.kind else {
        return None;
    };
    let (first, last) = (*items.first()?, *items.last()?);
    if page.is_flow(parent) {
        let end = page.end(last)?;
        return page.splice(end, end, &format!(", {}", item.inline()));
    }
    let margin = page.column(page.dash(first)?)?;
    let end = page.line_end(page.end(last)?);
    let text = format!("{}- {}", " ".repeat(margin), item.item(margin));
    page.lines(end, end, &text)
}

impl Page<'_> {
    fn node(&self, way: &[Way<'_>]) -> Option<&Node<'_>> {
        let steps: Vec<Step<'_>> = way
            .iter()
            .map(|step| match step {
                Way::Key(key) => Step::Key(key),
                Way::Index(index) => Step::Index(*index),
            })
            .collect();
        self.tree.find(&steps)
    }

    fn says(&self, id: NodeId, wanted: &str) -> bool {
        matches!(self.tree.node(id).map(|node| &node.kind),
            Some(Kind::Scalar { text, .. }) if text == wanted)
    }

    fn is_flow(&self, node: &Node<'_>) -> bool {
        // A block has no mark of its own: it is where its first item is.
        let bracket = match node.kind {
            Kind::Map(_) => '{',
            Kind::List(_) => '[',
            Kind::Scalar { .. } | Kind::Lost => return false,
        };
        let start = node.span.start as usize;
        let rest = self.text.get(start..);
        rest.is_some_and(|rest| rest.starts_with(bracket))
    }

    fn start(&self, id: NodeId) -> Option<usize> {
        Some(self.tree.node(id)?.span.start as usize)
    }

    /// Where the text of a node ends.
    fn end(&self, id: NodeId) -> Option<usize> {
        let node = self.tree.node(id)?;
        let last = match &node.kind {
            Kind::Scalar { .. } | Kind::Lost => return Some(node.span.end as usize),
            Kind::List(items) => match items.last() {
                Some(item) => Some(self.end(*item)?),
                None => None,
            },
            Kind::Map(entries) => match entries.last() {
                Some((key, value)) => {
                    let (key, value) = (self.end(*key)?, self.end(*value)?);
                    if value < key {
                        // Of an alias the tree has only what it stands for, which is further up.
                        let line = self.line_end(key);
                        return Some(self.text.get(..line)?.trim_end().len());
                    }
                    Some(value)
                }
                None => None,
            },
        };
        let inner = last.unwrap_or(node.span.start as usize + 1);
        if !self.is_flow(node) {
            return Some(inner);
        }
        let mut at = inner;
        loop {
            let rest = self.text.get(at..)?;
            match rest.chars().next()? {
                '}' | ']' => return Some(at + 1),
                '#' => at += rest.find('\n')?,
                c => at += c.len_utf8(),
            }
        }
    }

    /// Right behind the end of the line in which this is, if nothing but a comment follows there.
    fn line_end(&self, at: usize) -> usize {
        let rest = self.text.get(at..).unwrap_or_default();
        at + rest.find('\n').map_or(rest.len(), |newline| newline + 1)
    }

    fn line_start(&self, at: usize) -> usize {
        let before = self.text.get(..at).unwrap_or_default();
        before.rfind('\n').map_or(0, |newline| newline + 1)
    }

    fn column(&self, at: usize) -> Option<usize> {
        Some(self.text.get(self.line_start(at)..at)?.chars().count())
    }

    /// The `-` before an item.
    fn dash(&self, item: NodeId) -> Option<usize> {
        let before = self.text.get(..self.start(item)?)?.trim_end_matches(' ');
        before.ends_with('-').then(|| before.len() - 1)
    }

    fn splice(&self, start: usize, end: usize, new: &str) -> Option<String> {
        let (before, after) = (self.text.get(..start)?, self.text.get(end..)?);
        Some(format!("{before}{new}{after}"))
    }

    /// As [`Self::splice`], of whole lines.
    fn lines(&self, start: usize, end: usize, new: &str) -> Option<String> {
        let before = self.text.get(..start)?;
        let open = !before.is_empty() && !before.ends_with('\n');
        let newline = if open { "\n" } else { "" };
        self.splice(start, end, &format!("{newline}{new}"))
    }

    fn replace_entry(
        &self,
        parent: &Node<'_>,
        (key, old): (NodeId, NodeId),
        value: &Written,
    ) -> Option<String> {
        let (node, end) = (self.tree.node(old)?, self.end(old)?);
        let start = node.span.start as usize;
        let in_line = self.is_flow(node)
            || matches!(node.kind, Kind::Scalar { .. }) && node.span.start < node.span.end;
        let one_line = self
            .text
            .get(start..end)
            .is_some_and(|old| !old.contains('\n'));
        let flat = matches!(value, Written::Text { .. });
        if in_line && (self.is_flow(parent) || flat || one_line && self.is_flow(node)) {
            return self.splice(start, end, &value.inline());
        }
        if self.is_flow(parent) {
            return None;
        }
        let colon = self.end(key)? + self.text.get(self.end(key)?..)?.find(':')? + 1;
        let margin = self.column(self.start(key)?)?;
        let end = self.line_end(end.max(colon));
        self.splice(colon, end, &value.below(margin))
    }

    fn insert(
        &self,
        parent: &Node<'_>,
        entries: &[(NodeId, NodeId)],
        key: &str,
        value: &Written,
    ) -> Option<String> {
        let &(first, _) = entries.first()?;
        let &(last_key, last) = entries.last()?;
        let end = self.end(last)?.max(self.end(last_key)?);
        if self.is_flow(parent) {
            return self.splice(end, end, &format!(", {key}: {}", value.inline()));
        }
        let margin = self.column(self.start(first)?)?;
        let end = self.line_end(end);
        let text = format!("{}{key}:{}", " ".repeat(margin), value.below(margin));
        self.lines(end, end, &text)
    }

    fn replace_item(&self, parent: &Node<'_>, item: NodeId, value: &Written) -> Option<String> {
        let (start, end) = (self.start(item)?, self.end(item)?);
        let node = self.tree.node(item)?;
        if self.is_flow(parent) || self.is_flow(node) {
            return self.splice(start, end, &value.inline());
        }
        let margin = self.column(self.dash(item)?)?;
        self.splice(start, self.line_end(end), &value.item(margin))
    }

    /// Without an entry or item, whose lines must be its own.
    fn cut(&self, first: NodeId, last: NodeId, dash: Option<usize>) -> Option<String> {
        let start = dash.map_or_else(|| self.start(first), Some)?;
        let line = self.line_start(start);
        let alone = self.text.get(line..start)?.trim().is_empty();
        let end = self.end(last)?.max(self.end(first)?);
        alone.then(|| self.splice(line, self.line_end(end), ""))?
    }
}
