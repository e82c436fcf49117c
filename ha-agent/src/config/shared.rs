//! The part of a file that both nodes of a pair have alike: every section but `node`.
//!
//! It travels as text, so that the partner gets comments, order and spelling as they were written. A node
//! puts what it received into its own file section by section: sections that say what they said before,
//! its own section `node`, and comments outside of what changed stay as they are.

use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;

use aws_lc_rs::digest;

use super::Loaded;
use super::diagnostic::{Diagnostic, Problem, Span};
use super::model::Config;
use super::tree::{Kind, NodeId, Tree};
use super::values::{Scalar, is_null};
use crate::proto::confsync::ContentHash;

/// The section that stays where it is.
const LOCAL: &str = "node";

/// What both nodes have alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedPart {
    /// Equal if and only if the sections say the same, however they are written.
    pub hash: ContentHash,
    /// The sections, as they are written.
    pub document: String,
}

/// A section and where it is written, without what stands between it and the next.
struct Section<'a> {
    key: Cow<'a, str>,
    value: NodeId,
    range: Range<usize>,
}

impl SharedPart {
    /// Of a file; the problem, if its sections cannot be told apart.
    pub(super) fn of(text: &str) -> Result<Self, Problem> {
        let refuse = |what: &str, remedy: &str| Problem::error(Span::default(), what, remedy);
        let (tree, _) = Tree::parse(text);
        let hash = hash(&tree);
        let sections = sections(&tree, text).ok_or_else(|| {
            refuse(
                "the sections of this file do not begin at the left margin, so they cannot be \
                 replicated",
                "write each section as lines of its own that begin with `key:`",
            )
        })?;
        let mut document = String::new();
        for section in sections.iter().filter(|section| section.key != LOCAL) {
            document.push_str(text.get(section.range.clone()).unwrap_or_default());
            end_line(&mut document);
        }
        let (alone, problems) = Tree::parse(&document);
        if !problems.is_empty() || self::hash(&alone) != hash {
            return Err(refuse(
                "the sections other than `node` mean something else without it, so they cannot be \
                 replicated",
                "use aliases (`*name`) only for what is marked (`&name`) outside of `node`",
            ));
        }
        Ok(Self { hash, document })
    }

    /// Of a file that is not replicated.
    pub(super) fn whole(text: &str) -> Self {
        Self {
            hash: document_hash(text),
            document: String::new(),
        }
    }
}

/// What a document says, whoever's it is.
pub fn document_hash(document: &str) -> ContentHash {
    hash(&Tree::parse(document).0)
}

/// A node's own file with the partner's document in the place of its shared sections, checked as a whole.
/// Every problem is one of the file as it would be; `path` only names it.
pub fn compose(path: &Path, own: &str, document: &str) -> Result<Loaded, Vec<Diagnostic>> {
    let wanted = document_hash(document);
    let spliced = splice(own, document).map(|text| Config::parse(path, text.into_bytes()));
    if let Some(Ok(loaded)) = spliced
        && loaded.shared.hash == wanted
    {
        return Ok(loaded);
    }
    // Aliases between sections: only all of them together mean what they should.
    let whole = rebuild(own, document).unwrap_or_else(|| document.to_owned());
    let loaded = Config::parse(path, whole.into_bytes())?;
    if loaded.shared.hash == wanted {
        return Ok(loaded);
    }
    let problem = Problem::error(
        Span::default(),
        "the partner's sections mean something else beside this node's own section `node`",
        "write each section as lines of its own that begin with `key:`, on both nodes",
    );
    Err(loaded.source.diagnose(vec![problem]))
}

/// Names of the sections in which two documents differ.
pub fn changed(old: &str, new: &str) -> Vec<String> {
    let (here, _) = Tree::parse(old);
    let (there, _) = Tree::parse(new);
    let old = sections(&here, old).unwrap_or_default();
    let new = sections(&there, new).unwrap_or_default();
    let other = |section: &Section<'_>| {
        let before = old.iter().find(|before| before.key == section.key);
        !before.is_some_and(|before| same((&here, before.value), (&there, section.value)))
    };
    let gone = |section: &&Section<'_>| new.iter().all(|after| after.key != section.key);
    let changed = new.iter().filter(|section| other(section));
    let names = changed.chain(old.iter().filter(gone));
    names.map(|section| format!("`{}`", section.key)).collect()
}

/// Replaces the sections that differ.
fn splice(own: &str, document: &str) -> Option<String> {
    let (here, _) = Tree::parse(own);
    let (there, _) = Tree::parse(document);
    let ours = sections(&here, own)?;
    let theirs = sections(&there, document)?;
    let mut out = String::with_capacity(own.len().max(document.len()));
    let mut done = 0;
    for section in &ours {
        out.push_str(own.get(done..section.range.start)?);
        done = section.range.end;
        let partner = theirs.iter().find(|other| other.key == section.key);
        let text = match partner {
            _ if section.key == LOCAL => own.get(section.range.clone())?,
            Some(other) if same((&here, section.value), (&there, other.value)) => {
                own.get(section.range.clone())?
            }
            Some(other) => document.get(other.range.clone())?,
            None => "",
        };
        out.push_str(text);
        if !text.is_empty() {
            end_line(&mut out);
        }
    }
    out.push_str(own.get(done..)?);
    let known = |section: &&Section<'_>| ours.iter().all(|other| other.key != section.key);
    for section in theirs.iter().filter(known) {
        end_line(&mut out);
        out.push_str(document.get(section.range.clone())?);
        end_line(&mut out);
    }
    Some(out)
}

/// What stands before the first section, the node's own section, and the document.
fn rebuild(own: &str, document: &str) -> Option<String> {
    let (tree, _) = Tree::parse(own);
    let sections = sections(&tree, own)?;
    let mut out = own.get(..sections.first()?.range.start)?.to_owned();
    let local = sections.iter().find(|section| section.key == LOCAL)?;
    out.push_str(own.get(local.range.clone())?);
    end_line(&mut out);
    out.push_str(document);
    Some(out)
}

fn end_line(text: &mut String) {
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
}

/// The sections in the order of the file; none if they are not blocks at the left margin.
fn sections<'a>(tree: &'a Tree<'_>, text: &str) -> Option<Vec<Section<'a>>> {
    let root = tree.node(tree.root?)?;
    let Kind::Map(entries) = &root.kind else {
        return None;
    };
    if root.cut || text.get(root.span.start as usize..)?.starts_with('{') {
        return None;
    }
    let mut found: Vec<Section<'_>> = Vec::with_capacity(entries.len());
    for &(key, value) in entries {
        let node = tree.node(key)?;
        let Kind::Scalar { text: name, .. } = &node.kind else {
            return None;
        };
        let start = node.span.start as usize;
        if start > 0 && !text.get(..start)?.ends_with('\n') {
            return None;
        }
        found.push(Section {
            key: Cow::Borrowed(name.as_ref()),
            value,
            range: start..text.len(),
        });
    }
    let starts: Vec<usize> = found.iter().map(|section| section.range.start).collect();
    for (section, next) in found.iter_mut().zip(starts.iter().skip(1)) {
        section.range.end = *next;
    }
    for section in &mut found {
        let body = text.get(section.range.clone())?;
        section.range.end = section.range.start + body_length(body);
    }
    Some(found)
}

/// Without the blank lines and comments at the left margin that follow: those belong to what comes next.
fn body_length(body: &str) -> usize {
    let mut length = body.len();
    for line in body.split_inclusive('\n').rev() {
        if !line.trim().is_empty() && !line.starts_with('#') {
            break;
        }
        length -= line.len();
    }
    length
}

fn same(a: (&Tree<'_>, NodeId), b: (&Tree<'_>, NodeId)) -> bool {
    let canonical = |(tree, id): (&Tree<'_>, NodeId)| {
        let mut context = digest::Context::new(&digest::SHA256);
        feed(tree, id, &mut context);
        context.finish()
    };
    canonical(a).as_ref() == canonical(b).as_ref()
}

fn hash(tree: &Tree<'_>) -> ContentHash {
    let mut context = digest::Context::new(&digest::SHA256);
    if let Some(Kind::Map(entries)) = tree.root.and_then(|id| tree.node(id)).map(|n| &n.kind) {
        let shared = entries.iter().copied();
        let shared = shared.filter(|(key, _)| text_of(tree, *key) != Some(LOCAL));
        feed_map(tree, shared.collect(), &mut context);
    }
    let mut bytes = [0; 32];
    // SHA-256 has that length.
    for (byte, digest) in bytes.iter_mut().zip(context.finish().as_ref()) {
        *byte = *digest;
    }
    ContentHash::new(bytes)
}

fn text_of<'t>(tree: &'t Tree<'_>, id: NodeId) -> Option<&'t str> {
    match &tree.node(id)?.kind {
        Kind::Scalar { text, .. } => Some(text),
        Kind::List(_) | Kind::Map(_) | Kind::Lost => None,
    }
}

fn is_nothing(tree: &Tree<'_>, id: NodeId) -> bool {
    matches!(tree.node(id).map(|node| &node.kind), Some(Kind::Scalar { text, plain })
        if is_null(Scalar { text, plain: *plain }))
}

/// Tells a value to a hash, each with its kind and length, so that no two values sound alike. Aliases are
/// what they stand for; whether a text was quoted does not matter, and neither does the order of keys.
fn feed(tree: &Tree<'_>, id: NodeId, context: &mut digest::Context) {
    let number = |context: &mut digest::Context, kind: u8, length: usize| {
        context.update(&[kind]);
        context.update(&(length as u64).to_be_bytes());
    };
    match tree.node(id).map(|node| &node.kind) {
        Some(Kind::Scalar { text, .. }) => {
            number(context, b's', text.len());
            context.update(text.as_bytes());
        }
        Some(Kind::List(items)) => {
            number(context, b'l', items.len());
            for item in items {
                feed(tree, *item, context);
            }
        }
        Some(Kind::Map(entries)) => feed_map(tree, entries.clone(), context),
        Some(Kind::Lost) | None => number(context, b'x', 0),
    }
}

fn feed_map(tree: &Tree<'_>, mut entries: Vec<(NodeId, NodeId)>, context: &mut digest::Context) {
    // A key without a value is a key that is not there.
    entries.retain(|(_, value)| !is_nothing(tree, *value));
    entries.sort_by_key(|(key, _)| text_of(tree, *key));
    context.update(b"m");
    context.update(&(entries.len() as u64).to_be_bytes());
    for (key, value) in entries {
        feed(tree, key, context);
        feed(tree, value, context);
    }
}
