//! YAML text to a tree of located nodes.
//!
//! The tree is built straight from the parser's events, so that nothing is lost that a message to
//! the user may need: where a value stands, whether it was quoted, that a key occurs twice. After a
//! syntax error the parser starts again at the next section of the file, so that one slip does not
//! hide the others.
//!
//! Hostile files: size, depth and the number of nodes are bounded, and an alias is charged with the
//! size of what it stands for, so a small file cannot unfold into a large one.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_yaml::granit_parser::{self, Event, Parser, ScalarStyle, ScanError};

use super::diagnostic::{PROBLEMS_MAX, Problem, Span, quote};

/// Deepest nesting of each style, block and flow; the configuration itself needs seven levels.
const DEPTH_MAX: usize = 16;
/// Most nodes, each alias counted as often as it is used. The largest configuration that the data
/// plane can hold has about 80,000.
const NODES_MAX: usize = 500_000;
/// Most syntax errors after which reading goes on.
const RECOVERIES_MAX: usize = 20;

/// Index of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NodeId(usize);

/// What stands at a place.
#[derive(Debug)]
pub(crate) enum Kind<'a> {
    /// Text, and whether it was written without quotes.
    Scalar { text: Cow<'a, str>, plain: bool },
    /// `- item` or `[item]`.
    List(Vec<NodeId>),
    /// `key: value` or `{key: value}`; keys in order, repeated ones included.
    Map(Vec<(NodeId, NodeId)>),
    /// Lost to a syntax error, which is reported already.
    Lost,
}

#[derive(Debug)]
pub(crate) struct Node<'a> {
    pub(crate) span: Span,
    pub(crate) kind: Kind<'a>,
    /// A syntax error cut it short: what is missing may have been written.
    pub(crate) cut: bool,
}

/// A file's tree.
#[derive(Debug, Default)]
pub(crate) struct Tree<'a> {
    nodes: Vec<Node<'a>>,
    pub(crate) root: Option<NodeId>,
}

/// A step on the way to a value.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

impl<'a> Tree<'a> {
    /// The value at the end of a way from the root.
    pub(crate) fn find(&self, way: &[Step<'_>]) -> Option<&Node<'a>> {
        let mut at = self.node(self.root?)?;
        for step in way {
            let next = match (&at.kind, step) {
                (Kind::Map(entries), Step::Key(wanted)) => {
                    let is_wanted = |id: NodeId| {
                        let key = self.node(id).map(|node| &node.kind);
                        matches!(key, Some(Kind::Scalar { text, .. }) if text == wanted)
                    };
                    entries.iter().find(|(key, _)| is_wanted(*key))?.1
                }
                (Kind::List(items), Step::Index(index)) => *items.get(*index)?,
                _ => return None,
            };
            at = self.node(next)?;
        }
        Some(at)
    }

    pub(crate) fn node(&self, id: NodeId) -> Option<&Node<'a>> {
        self.nodes.get(id.0)
    }

    /// Reads a text; never fails as a whole.
    pub(crate) fn parse(text: &'a str) -> (Self, Vec<Problem>) {
        let mut builder = Builder::default();
        let mut base = 0;
        for _ in 0..RECOVERIES_MAX {
            match builder.segment(text, base) {
                Some(next) if next > base => base = next,
                _ => break,
            }
        }
        (builder.tree, builder.problems)
    }
}

/// A collection whose end has not been seen.
struct Open {
    id: NodeId,
    anchor: usize,
    /// Nodes counted when it began.
    counted: usize,
    /// A key waiting for its value.
    key: Option<NodeId>,
}

#[derive(Default)]
struct Builder<'a> {
    tree: Tree<'a>,
    problems: Vec<Problem>,
    open: Vec<Open>,
    /// What each anchor stands for, and how many nodes it has.
    anchors: BTreeMap<usize, (NodeId, usize)>,
    counted: usize,
    /// Whether a syntax error lies behind.
    recovering: bool,
}

impl<'a> Builder<'a> {
    /// Reads from byte `base` to the end or to a syntax error; returns where to go on after one.
    fn segment(&mut self, text: &'a str, base: usize) -> Option<usize> {
        let mut options = granit_parser::Options::default();
        options.set_emit_comments(false);
        options.emit_unresolved_aliases = true;
        options.disallow_directives = true;
        options.block_nesting_limit = DEPTH_MAX;
        options.flow_nesting_limit = DEPTH_MAX;
        self.anchors.clear();
        self.recovering = base > 0;
        let rest = text.get(base..).unwrap_or_default();
        let mut documents = 0;
        for event in Parser::new_from_str_with_options(rest, options) {
            let (event, span) = match event {
                Ok(event) => event,
                Err(error) => return self.syntax_error(text, base, &error),
            };
            let span = located(base, &span);
            if matches!(event, Event::DocumentStart(..)) {
                documents += 1;
                if documents > 1 {
                    self.stop(
                        span,
                        "a second document begins here",
                        "keep everything in one document: remove the `---`",
                    );
                    return None;
                }
            }
            if !self.event(event, span) {
                return None;
            }
        }
        None
    }

    /// Takes one event; false if reading must end.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the parser's enum is open; all events that carry nodes are here"
    )]
    fn event(&mut self, event: Event<'a>, span: Span) -> bool {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_tag(tag.is_some(), span);
                let plain = style == ScalarStyle::Plain;
                let id = self.add(span, Kind::Scalar { text, plain });
                self.mark(anchor, id, 1);
                self.attach(id);
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.refuse_tag(tag.is_some(), span);
                let id = self.add(span, Kind::List(Vec::new()));
                self.begin(id, anchor);
            }
            Event::MappingStart(_, anchor, tag) => {
                self.refuse_tag(tag.is_some(), span);
                let id = self.add(span, Kind::Map(Vec::new()));
                self.begin(id, anchor);
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Alias(anchor) => {
                if let Some(&(id, size)) = self.anchors.get(&anchor) {
                    self.counted += size;
                    self.attach(id);
                } else {
                    self.lost_alias(span, "an alias inside of what it stands for");
                }
            }
            Event::UnresolvedAlias(name) => {
                let what = format!("nothing above is marked {}", quote(&format!("&{name}")));
                self.lost_alias(span, &what);
            }
            _ => {}
        }
        if self.problems.len() >= PROBLEMS_MAX {
            self.stop(
                span,
                "too many problems to go on",
                "mend those above and check again",
            );
            return false;
        }
        if self.counted > NODES_MAX {
            self.stop(
                span,
                "the file has too many values",
                "the data plane holds far less than that: is this a configuration file?",
            );
            return false;
        }
        true
    }

    fn refuse_tag(&mut self, tagged: bool, span: Span) {
        if tagged {
            self.problems.push(Problem::error(
                span,
                "YAML tags (`!...`) have no meaning here",
                "write the value without the tag",
            ));
        }
    }

    fn lost_alias(&mut self, span: Span, what: &str) {
        // After a syntax error the anchor may have been in the part that was lost.
        if !self.recovering {
            self.problems.push(Problem::error(
                span,
                what,
                "write the value out, or put `&name` in front of an earlier one",
            ));
        }
        let id = self.add(span, Kind::Lost);
        self.attach(id);
    }

    fn add(&mut self, span: Span, kind: Kind<'a>) -> NodeId {
        self.counted += 1;
        let id = NodeId(self.tree.nodes.len());
        let cut = false;
        self.tree.nodes.push(Node { span, kind, cut });
        id
    }

    fn begin(&mut self, id: NodeId, anchor: usize) {
        self.open.push(Open {
            id,
            anchor,
            counted: self.counted - 1,
            key: None,
        });
    }

    /// Ends the innermost open collection.
    fn end(&mut self) {
        if let Some(done) = self.open.pop() {
            self.mark(done.anchor, done.id, self.counted - done.counted);
            self.attach(done.id);
        }
    }

    /// Remembers an anchored node; the parser's number for "no anchor" is 0.
    fn mark(&mut self, anchor: usize, id: NodeId, size: usize) {
        if anchor != 0 {
            self.anchors.insert(anchor, (id, size));
        }
    }

    /// Hands a finished node to the collection it belongs to.
    fn attach(&mut self, id: NodeId) {
        let Some(parent) = self.open.last_mut() else {
            self.attach_root(id);
            return;
        };
        match self.tree.nodes.get_mut(parent.id.0).map(|n| &mut n.kind) {
            Some(Kind::List(items)) => items.push(id),
            Some(Kind::Map(entries)) => match parent.key.take() {
                None => parent.key = Some(id),
                Some(key) => entries.push((key, id)),
            },
            Some(Kind::Scalar { .. } | Kind::Lost) | None => {}
        }
    }

    /// The top of a segment: after a syntax error it continues the map begun before.
    fn attach_root(&mut self, id: NodeId) {
        let Some(root) = self.tree.root else {
            self.tree.root = Some(id);
            return;
        };
        let more = match self.tree.nodes.get_mut(id.0).map(|n| &mut n.kind) {
            Some(Kind::Map(entries)) => std::mem::take(entries),
            _ => return,
        };
        match self.tree.nodes.get_mut(root.0).map(|n| &mut n.kind) {
            Some(Kind::Map(entries)) => entries.extend(more),
            _ => self.tree.root = Some(id),
        }
    }

    /// Reports a syntax error and returns the start of the next section.
    fn syntax_error(&mut self, text: &str, base: usize, error: &ScanError) -> Option<usize> {
        let place = base + error.marker().byte_offset().unwrap_or(0);
        let opened = self.open.iter().find_map(|open| {
            let node = self.tree.node(open.id)?;
            let start = node.span.start as usize;
            let bracket = text.get(start..)?.chars().next()?;
            matches!(bracket, '{' | '[').then_some((start, bracket))
        });
        let remedy = match opened {
            Some((start, bracket)) => {
                let line = 1 + text.get(..start).unwrap_or_default().matches('\n').count();
                format!("check commas, quotes and the end of the `{bracket}` opened on line {line}")
            }
            None if text.get(place..).is_some_and(|t| t.starts_with('\t')) => {
                "indent with spaces: YAML does not allow tabs".to_owned()
            }
            None => "check indentation, colons and quotes here and on the line above".to_owned(),
        };
        // What was read last is probably part of the slip.
        if let Some(last) = self.tree.nodes.last_mut()
            && matches!(last.kind, Kind::Scalar { .. })
        {
            last.kind = Kind::Lost;
        }
        let span = span(place, place + 1);
        self.stop(span, &format!("not valid YAML: {}", error.info()), &remedy);
        // What follows an unclosed bracket was read as its content: start again from there.
        next_section(text, opened.map_or(place, |(start, _)| start.min(place)))
    }

    /// Reports a problem after which no more events can be used, and closes what is open.
    fn stop(&mut self, span: Span, what: &str, remedy: &str) {
        self.problems.push(Problem::error(span, what, remedy));
        while let Some(open) = self.open.last_mut() {
            let id = open.id;
            if open.key.is_some() {
                let lost = self.add(span, Kind::Lost);
                self.attach(lost);
            }
            if let Some(node) = self.tree.nodes.get_mut(id.0) {
                node.cut = true;
            }
            self.end();
        }
    }
}

fn span(start: usize, end: usize) -> Span {
    let bound = |at| u32::try_from(at).unwrap_or(u32::MAX);
    Span {
        start: bound(start),
        end: bound(end),
    }
}

fn located(base: usize, of: &granit_parser::Span) -> Span {
    of.byte_range()
        .map_or_else(Span::default, |r| span(base + r.start, base + r.end))
}

/// Start of the next line after `from` that begins a section: a key at the left margin.
fn next_section(text: &str, from: usize) -> Option<usize> {
    let rest = text.get(from..)?;
    rest.match_indices('\n').find_map(|(newline, _)| {
        let start = from + newline + 1;
        let line = text.get(start..)?.split('\n').next()?;
        let (key, _) = line.split_once(':')?;
        let is_key = !key.is_empty() && key.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        is_key.then_some(start)
    })
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    fn keys<'t>(tree: &'t Tree<'_>) -> Vec<&'t str> {
        let root = tree.node(tree.root.unwrap()).unwrap();
        let Kind::Map(entries) = &root.kind else {
            panic!("{root:?}")
        };
        entries
            .iter()
            .map(|&(key, _)| match &tree.node(key).unwrap().kind {
                Kind::Scalar { text, .. } => text.as_ref(),
                Kind::List(_) | Kind::Map(_) | Kind::Lost => panic!("{key:?}"),
            })
            .collect()
    }

    #[test]
    fn a_slip_hides_only_its_own_section() {
        let (tree, problems) = Tree::parse("a: 1\nb: { x: 1, y\nc: 3\nd: [1, 2]\n");
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].remedy.contains("opened on line 2"));
        assert_eq!(keys(&tree), ["a", "b", "c", "d"]);
        assert!(tree.node(tree.root.unwrap()).unwrap().cut);
    }

    #[test]
    fn tabs_are_named() {
        let (_, problems) = Tree::parse("a:\n\tb: 1\n");
        assert!(problems[0].what.contains("tab"), "{problems:?}");
    }

    #[test]
    fn aliases_are_charged_with_what_they_stand_for() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for n in 1..20 {
            let item = format!("*a{},", n - 1).repeat(10);
            writeln!(text, "a{n}: &a{n} [{item}]").unwrap();
        }
        let (_, problems) = Tree::parse(&text);
        assert_eq!(problems.len(), 1);
        assert!(problems[0].what.contains("too many values"), "{problems:?}");
    }

    #[test]
    fn depth_is_bounded() {
        let (_, problems) = Tree::parse(&"[".repeat(100_000));
        assert_eq!(problems.len(), 1);
        assert!(problems[0].what.contains("limit exceeded"), "{problems:?}");
    }

    #[test]
    fn a_self_reference_is_refused() {
        let (_, problems) = Tree::parse("a: &a [*a]\nb: *nowhere\n");
        assert_eq!(problems.len(), 2, "{problems:?}");
    }

    #[test]
    fn tags_directives_and_second_documents_are_refused() {
        for text in [
            "a: !!str 1\n",
            "%YAML 1.2\n---\na: 1\n",
            "a: 1\n---\nb: 1\n",
        ] {
            let (_, problems) = Tree::parse(text);
            assert_eq!(problems.len(), 1, "{text:?} {problems:?}");
        }
    }
}
