//! What stands in for a collector that speaks HTTP: it answers as it is told to, and keeps what it has taken.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use integration::{DEADLINE, wait_until};

/// How it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    Takes,
    Fails,
    /// It answers nothing.
    Stalls,
    /// For a second.
    IsBusy,
    /// It takes it, and the connection breaks before that is said.
    TakesAndDies,
    /// It takes all but two, as receivers of OpenTelemetry say that.
    DropsTwo,
}

/// What it was sent: the head, and the body.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) head: String,
    pub(crate) body: String,
}

#[derive(Debug)]
struct State {
    mood: Mood,
    taken: Vec<Request>,
    tried: usize,
}

/// The receiver. It is gone when dropped; another can take its place.
#[derive(Debug)]
pub(crate) struct Receiver {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    stop: Arc<Mutex<bool>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Receiver {
    pub(crate) fn new() -> Self {
        Self::at("127.0.0.1:0".parse().expect("an address"))
    }

    #[track_caller]
    pub(crate) fn at(address: SocketAddr) -> Self {
        let listener = wait_until(DEADLINE, "the address is free", || TcpListener::bind(address).ok());
        let address = listener.local_addr().expect("it is bound");
        let state = Arc::new(Mutex::new(State { mood: Mood::Takes, taken: Vec::new(), tried: 0 }));
        let stop = Arc::new(Mutex::new(false));
        let (shared, stopped) = (Arc::clone(&state), Arc::clone(&stop));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if *lock(&stopped) {
                    return;
                }
                let (shared, stopped) = (Arc::clone(&shared), Arc::clone(&stopped));
                thread::spawn(move || serve(stream, &shared, &stopped));
            }
        });
        Self { address, state, stop }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn is(&self, mood: Mood) {
        lock(&self.state).mood = mood;
    }

    pub(crate) fn taken(&self) -> Vec<Request> {
        lock(&self.state).taken.clone()
    }

    /// How often something was tried.
    pub(crate) fn tried(&self) -> usize {
        lock(&self.state).tried
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        *lock(&self.stop) = true;
        // It waits for a connection.
        drop(TcpStream::connect(self.address));
    }
}

fn serve(stream: TcpStream, state: &Mutex<State>, stopped: &Mutex<bool>) {
    let mut writer = stream.try_clone().expect("a descriptor is free");
    let mut reader = BufReader::new(stream);
    while let Some(request) = read(&mut reader) {
        let mood = {
            let mut state = lock(state);
            state.tried += 1;
            state.mood
        };
        if *lock(stopped) {
            return;
        }
        let answer = match mood {
            Mood::Stalls => {
                // Longer than anybody waits.
                thread::sleep(Duration::from_secs(60));
                return;
            }
            Mood::Fails => "HTTP/1.1 500 oh\r\ncontent-length: 0\r\n\r\n".to_owned(),
            Mood::IsBusy => "HTTP/1.1 429 busy\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n".to_owned(),
            Mood::TakesAndDies => {
                lock(state).taken.push(request);
                return;
            }
            Mood::Takes | Mood::DropsTwo => {
                let body = match mood {
                    Mood::DropsTwo => DROPS_TWO.to_owned(),
                    _ => answer(&request),
                };
                lock(state).taken.push(request);
                format!("HTTP/1.1 200 ok\r\ncontent-length: {}\r\n\r\n{body}", body.len())
            }
        };
        if writer.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

const DROPS_TWO: &str = r#"{"partialSuccess":{"rejectedLogRecords":"2","errorMessage":"too old\u001b[2J"}}"#;

/// As the receivers that it stands for answer.
fn answer(request: &Request) -> String {
    let created = request.body.lines().filter(|line| line.starts_with("{\"create\"")).count();
    if created > 0 {
        let items = vec!["{\"create\":{\"status\":201}}"; created].join(",");
        format!("{{\"errors\":false,\"items\":[{items}]}}")
    } else {
        "{\"text\":\"Success\",\"code\":0}".to_owned()
    }
}

fn read(reader: &mut BufReader<TcpStream>) -> Option<Request> {
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if line == "\r\n" {
            break;
        }
        head += &line;
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request { head, body: String::from_utf8(body).ok()? })
}
