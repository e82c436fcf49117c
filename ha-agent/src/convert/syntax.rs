//! The syntax of keepalived.conf: statements of words, one a line, some with a block in braces.

/// How deep blocks may be nested; real files need four levels.
const DEPTH_MAX: usize = 16;

/// A statement and its place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Statement {
    /// Line, from 1.
    pub(super) line: usize,
    /// Its words; the first is the keyword.
    pub(super) words: Vec<String>,
    /// What stands in its braces.
    pub(super) block: Vec<Self>,
}

impl Statement {
    /// A word by its number; the keyword is 0.
    pub(super) fn word(&self, number: usize) -> &str {
        self.words.get(number).map_or("", String::as_str)
    }

    /// The keyword.
    pub(super) fn keyword(&self) -> &str {
        self.word(0)
    }

    /// The first statement of its block with this keyword.
    pub(super) fn find(&self, keyword: &str) -> Option<&Self> {
        self.block.iter().find(|inner| inner.keyword() == keyword)
    }
}

/// Reads a file; else the line that is wrong, and how.
pub(super) fn parse(text: &str) -> Result<Vec<Statement>, (usize, &'static str)> {
    // Open blocks, the outermost first; the last is being filled.
    let mut open: Vec<Statement> = vec![Statement::default()];
    let mut number = 0;
    for line in text.lines() {
        number += 1;
        let mut current = Statement {
            line: number,
            ..Statement::default()
        };
        for word in words(line).map_err(|what| (number, what))? {
            match &*word {
                "{" => {
                    if current.words.is_empty() {
                        // The brace may stand on the line below its keyword.
                        let before = open.last_mut().and_then(|block| block.block.pop());
                        current = before.ok_or((number, "a block without a keyword"))?;
                    }
                    if open.len() > DEPTH_MAX {
                        return Err((number, "blocks are nested too deeply"));
                    }
                    open.push(std::mem::take(&mut current));
                    current.line = number;
                }
                "}" => {
                    let mut done = open.pop().ok_or((number, "a brace too many"))?;
                    if !current.words.is_empty() {
                        done.block.push(std::mem::take(&mut current));
                        current.line = number;
                    }
                    let around = open.last_mut().ok_or((number, "a brace too many"))?;
                    around.block.push(done);
                }
                _ => current.words.push(word),
            }
        }
        if let Some(block) = open.last_mut()
            && !current.words.is_empty()
        {
            block.block.push(current);
        }
    }
    match &*open {
        [whole] => Ok(whole.block.clone()),
        [.., unclosed] => Err((unclosed.line, "this block is not closed")),
        [] => Ok(Vec::new()),
    }
}

/// The words of a line, braces apart, without comments.
fn words(line: &str) -> Result<Vec<String>, &'static str> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while let Some(first) = rest.chars().next() {
        let (word, left) = match first {
            '#' | '!' => break,
            '{' | '}' => rest.split_at(1),
            '"' => {
                let (word, left) = rest
                    .get(1..)
                    .and_then(|text| text.split_once('"'))
                    .ok_or("a quotation mark too few")?;
                (word, left)
            }
            _ => {
                let end = rest.find(|c: char| c.is_whitespace() || c == '{' || c == '}');
                rest.split_at(end.unwrap_or(rest.len()))
            }
        };
        words.push(word.to_owned());
        rest = left.trim_start();
    }
    Ok(words)
}
