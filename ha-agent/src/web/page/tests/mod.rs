//! The page of a node that is not there, over HTTP.

mod access;
mod api;
mod forms;
mod interfaces;
mod listening;
#[expect(
    clippy::unwrap_in_result,
    reason = "a test may fail wherever something is not as it should be"
)]
mod node;
mod pages;
mod reset;

use std::net::SocketAddr;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::users::Access;
use super::*;
use crate::config::model::Config;
use crate::web::listen::{Counted, Limits, Offer, bind, everywhere, serve};
use node::Node;

const PATIENCE: Duration = Duration::from_mins(1);
const PASSWORD: &str = "correct horse battery";

struct Running {
    dir: TempDir,
    address: SocketAddr,
    page: Arc<Page<Node>>,
    _tasks: [tokio::task::JoinHandle<()>; 2],
}

/// An answer: code, head, body.
struct Answer {
    code: u16,
    head: String,
    body: String,
}

impl Running {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let page = Page::new(Arc::new(Node::new(dir.path())));
        let any = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = any.local_addr().unwrap();
        drop(any);
        let listener = bind(address).unwrap();
        let router = page.router();
        let limits = Limits {
            clients: 32,
            life: PATIENCE,
        };
        let offer = Offer {
            router,
            tls: None,
            limits,
            admits: everywhere,
        };
        let served = tokio::spawn(async move { serve(listener, offer, &Counted::default()).await });
        let drawn = tokio::spawn(Arc::clone(&page).draw());
        Self {
            dir,
            address,
            page,
            _tasks: [served, drawn],
        }
    }

    /// Waits until the node was asked for that, and for nothing else since this was called last.
    async fn was_asked(&self, wanted: &[&str]) {
        let asked = &self.page.shown.asked;
        let enough = async {
            while asked.lock().unwrap().len() < wanted.len() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, enough).await.unwrap();
        assert_eq!(std::mem::take(&mut *asked.lock().unwrap()), wanted);
    }

    async fn ask(&self, request: &str, more: &str, body: &str) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let text = format!(
            "{request} HTTP/1.1\r\nHost: lb1:8443\r\nConnection: close\r\n{more}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(PATIENCE, stream.read_to_string(&mut answer))
            .await
            .unwrap()
            .unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        Answer {
            code: head.split(' ').nth(1).unwrap().parse().unwrap(),
            head: head.to_lowercase(),
            body: body.to_owned(),
        }
    }

    async fn get(&self, path: &str, cookie: &str) -> Answer {
        self.ask(&format!("GET {path}"), &format!("Cookie: {cookie}\r\n"), "")
            .await
    }

    async fn send(&self, path: &str, more: &str, body: &str) -> Answer {
        let form = "Content-Type: application/x-www-form-urlencoded\r\n";
        self.ask(&format!("POST {path}"), &format!("{form}{more}"), body)
            .await
    }

    /// Makes the first user; the session's cookie.
    async fn set_up(&self) -> String {
        let path = self.page.setup_path().unwrap();
        let token = path.split_once('=').unwrap().1;
        let body = format!(
            "token={token}&name=alice&password={}",
            PASSWORD.replace(' ', "+")
        );
        let made = self
            .send("/setup", "Origin: https://lb1:8443\r\n", &body)
            .await;
        assert_eq!(made.code, 303, "{}", made.body);
        cookie_of(&made)
    }
}

fn cookie_of(answer: &Answer) -> String {
    let line = answer
        .head
        .lines()
        .find(|line| line.starts_with("set-cookie: "));
    let line = line.unwrap().strip_prefix("set-cookie: ").unwrap();
    for flag in ["path=/", "secure", "httponly", "samesite=strict"] {
        assert!(line.split("; ").any(|word| word == flag), "{line}");
    }
    line.split(';').next().unwrap().replace("__host", "__Host")
}

/// What the file of a node means.
fn config(running: &Running) -> Config {
    let text = running.page.shown.file.lock().unwrap().clone();
    let loaded = Config::parse(Path::new("f"), text.into_bytes());
    loaded
        .unwrap_or_else(|problems| panic!("{problems:#?}"))
        .config
}

/// The value of a hidden field.
fn value_of(page: &str, name: &str) -> String {
    let mark = format!("name=\"{name}\" value=\"");
    let rest = page
        .split(&mark)
        .nth(1)
        .unwrap_or_else(|| panic!("{name}: {page}"));
    let value = rest.split('"').next().unwrap();
    let plain = value
        .replace("&#34;", "\"")
        .replace("&#39;", "'")
        .replace("&#60;", "<");
    plain.replace("&#62;", ">").replace("&#38;", "&")
}

/// As forms are sent.
fn form(fields: &[(&str, &str)]) -> String {
    let coded = |text: &str| {
        let bytes = text.bytes().map(|byte| format!("%{byte:02X}"));
        bytes.collect::<String>()
    };
    let pairs = fields
        .iter()
        .map(|(name, value)| format!("{}={}", coded(name), coded(value)));
    pairs.collect::<Vec<_>>().join("&")
}

/// Somebody who is logged in.
struct Browser<'r> {
    running: &'r Running,
    cookie: String,
    csrf: String,
}

impl<'r> Browser<'r> {
    /// Somebody who may do that.
    fn of(running: &'r Running, access: Access) -> Self {
        let sessions = running.page.sessions();
        let token = sessions
            .begin(crate::shell::clock::now(), "bob", access)
            .unwrap();
        let session = sessions.find(crate::shell::clock::now(), &token).unwrap();
        Self {
            running,
            cookie: format!("__Host-ha-agent={token}"),
            csrf: session.csrf,
        }
    }

    async fn get(&self, path: &str) -> Answer {
        self.running.get(path, &self.cookie).await
    }

    async fn post(&self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let fields = [&[("csrf", &*self.csrf)], fields].concat();
        let cookie = format!("Cookie: {}\r\n", self.cookie);
        self.running.send(path, &cookie, &form(&fields)).await
    }

    /// Agrees to the change that a page shows.
    async fn agree(&self, shown: &Answer, restart: &str) -> Answer {
        assert_eq!(shown.code, 200, "{}", shown.body);
        let (base, wanted) = (
            value_of(&shown.body, "base"),
            value_of(&shown.body, "wanted"),
        );
        let back = value_of(&shown.body, "back");
        let fields = [
            ("base", &*base),
            ("wanted", &wanted),
            ("back", &back),
            ("restart", restart),
        ];
        self.post("/change", &fields).await
    }

    /// All fields of the form on a page, as they are.
    async fn fields(&self, path: &str) -> Vec<(String, String)> {
        let page = self.get(path).await;
        assert_eq!(page.code, 200, "{}", page.body);
        fields_of(&page.body)
    }

    /// Sends the form of a page, with some fields changed.
    async fn fill(&self, path: &str, changed: &[(&str, &str)]) -> Answer {
        let mut fields = self.fields(path).await;
        fields.retain(|(name, _)| name != "csrf");
        for (name, value) in changed {
            match fields.iter_mut().find(|(field, _)| field == name) {
                Some((_, old)) => (*value).clone_into(old),
                None => fields.push(((*name).to_owned(), (*value).to_owned())),
            }
        }
        let fields: Vec<(&str, &str)> = fields
            .iter()
            .map(|(name, value)| (&**name, &**value))
            .collect();
        self.post(path, &fields).await
    }
}

/// The fields of the main form of a page, as a browser would send them.
fn fields_of(page: &str) -> Vec<(String, String)> {
    let main = page.split("<main").nth(1).unwrap();
    let form = main
        .split("<form")
        .nth(1)
        .unwrap()
        .split("</form>")
        .next()
        .unwrap();
    let mut fields = Vec::new();
    for piece in form.split("<input").skip(1) {
        let tag = piece.split('>').next().unwrap();
        let attribute = |name: &str| {
            let value = tag.split(&format!(" {name}=\"")).nth(1)?;
            Some(value.split('"').next().unwrap().to_owned())
        };
        let unchecked = tag.contains("type=\"checkbox\"") && !tag.contains(" checked");
        if let (Some(name), false) = (attribute("name"), unchecked) {
            fields.push((name, attribute("value").unwrap_or_default()));
        }
    }
    for piece in form.split("<select").skip(1) {
        let select = piece.split("</select>").next().unwrap();
        let name = select
            .split(" name=\"")
            .nth(1)
            .unwrap()
            .split('"')
            .next()
            .unwrap();
        let chosen = select
            .split("<option")
            .skip(1)
            .find(|option| option.contains(" selected"));
        let value = chosen.and_then(|option| option.split("value=\"").nth(1));
        let value = value.map_or("", |value| value.split('"').next().unwrap());
        fields.push((name.to_owned(), value.to_owned()));
    }
    fields
}
