//! Syslog messages (RFC 5424) over a Unix socket, UDP, TCP or TLS.
//!
//! Over TCP nobody says what arrived: what a receiver had not read when it died is lost to it. So a connection that breaks takes back
//! what was sent a short time before (`worker`), and a broken one is noticed before more is sent.

use std::{
    fs,
    io::{self, ErrorKind, Read, Write},
    net::{TcpStream, ToSocketAddrs as _, UdpSocket},
    os::unix::net::UnixDatagram,
    sync::Arc,
    time::Duration,
};

use nix::sys::socket::{setsockopt, sockopt};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use syslog_fmt::{Facility, Severity, v5424};

use super::{
    settings::Syslog,
    transport::{Message, NotSent, Sent, Transport},
};

/// How long a receiver may keep us waiting.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a receiver's host may leave what it was sent without an answer: less than what is on its way is waited for.
const UNANSWERED_MS: u32 = 8000;

pub(super) struct SyslogTransport {
    settings: Syslog,
    formatter: v5424::Formatter,
    open: Option<Channel>,
}

enum Channel {
    Unix(UnixDatagram),
    Udp(UdpSocket),
    Tcp(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl SyslogTransport {
    pub(super) fn new(settings: Syslog, host: &str) -> Self {
        // Words of printable ASCII.
        let host: String = host.chars().filter(char::is_ascii_graphic).take(255).collect();
        let pid = std::process::id().to_string();
        let formatter = v5424::Config {
            facility: Facility::Authpriv,
            hostname: (!host.is_empty()).then_some(host.as_str()),
            app_name: Some("enforcer"),
            proc_id: Some(&pid),
        };
        Self { settings, formatter: formatter.into_formatter(), open: None }
    }

    fn connect(&self) -> io::Result<Channel> {
        let invalid = |what: &str| io::Error::new(ErrorKind::InvalidInput, what);
        let Some((scheme, rest)) = self.settings.address.split_once(':') else {
            return Err(invalid("the address has no scheme"));
        };
        let place = rest.strip_prefix("//").unwrap_or(rest);
        match scheme {
            "unix" => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(place)?;
                socket.set_write_timeout(Some(PATIENCE))?;
                Ok(Channel::Unix(socket))
            }
            "udp" => {
                let to = place.to_socket_addrs()?.next().ok_or_else(|| invalid("the name has no address"))?;
                let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
                socket.connect(to)?;
                Ok(Channel::Udp(socket))
            }
            "tcp" => Ok(Channel::Tcp(tcp(place)?)),
            "tls" => {
                let host = place.rsplit_once(':').map_or(place, |(host, _)| host).trim_matches(['[', ']']);
                let name =
                    ServerName::try_from(host.to_owned()).map_err(|error| invalid(&error.to_string()))?;
                let config = Arc::new(client(&fs::read(&self.settings.ca)?).map_err(io::Error::other)?);
                let tls = ClientConnection::new(config, name).map_err(io::Error::other)?;
                let mut stream = StreamOwned::new(tls, tcp(place)?);
                // Who it is shows before anything is sent.
                while stream.conn.is_handshaking() {
                    stream.conn.complete_io(&mut stream.sock)?;
                }
                Ok(Channel::Tls(Box::new(stream)))
            }
            _ => Err(invalid("the address is neither of `unix`, `udp`, `tcp` nor `tls`")),
        }
    }

    fn text(&self, message: &Message) -> io::Result<Vec<u8>> {
        let severity = if message.is_refusal { Severity::Warning } else { Severity::Info };
        let mut text = Vec::with_capacity(message.text.len() + 128);
        // Bytes, though they are UTF-8: what begins with a byte order mark is no JSON to most.
        let bytes = message.text.as_bytes();
        let time = microseconds(&message.time);
        self.formatter.write_without_data(&mut text, severity, time, bytes, Some(&message.kind))?;
        Ok(text)
    }
}

/// What RFC 5424 takes of a time: no more than six digits of a second.
fn microseconds(time: &str) -> String {
    match time.split_once('.') {
        Some((seconds, fraction)) => {
            format!("{seconds}.{}Z", fraction.trim_end_matches('Z').get(..6).unwrap_or("000000"))
        }
        None => time.to_owned(),
    }
}

fn tcp(place: &str) -> io::Result<TcpStream> {
    let mut failed = io::Error::new(ErrorKind::NotFound, "the name has no address");
    for address in place.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => {
                stream.set_write_timeout(Some(PATIENCE))?;
                stream.set_read_timeout(Some(PATIENCE))?;
                // A host that is gone says nothing: the connection has to break before what is on its way is taken for arrived.
                setsockopt(&stream, sockopt::TcpUserTimeout, &UNANSWERED_MS).map_err(io::Error::from)?;
                return Ok(stream);
            }
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// A TLS client that believes these certificates.
pub(super) fn client(pem: &[u8]) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| format!("read the certificates: {error}"))?;
        roots.add(certificate).map_err(|error| format!("take a certificate: {error}"))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(builder.map_err(|error| error.to_string())?.with_root_certificates(roots).with_no_client_auth())
}

impl Transport for SyslogTransport {
    fn send(&mut self, batch: &[Message]) -> Result<Sent, NotSent> {
        if self.open.is_some() {
            self.check()?;
        }
        let texts = batch.iter().map(|message| self.text(message)).collect::<io::Result<Vec<_>>>()?;
        let mut channel = match self.open.take() {
            Some(channel) => channel,
            None => self.connect()?,
        };
        // One that fails is not kept.
        match &mut channel {
            Channel::Unix(socket) => texts.iter().try_for_each(|text| datagram(socket.send(text)))?,
            Channel::Udp(socket) => texts.iter().try_for_each(|text| datagram(socket.send(text)))?,
            Channel::Tcp(stream) => counted(stream, &texts)?,
            Channel::Tls(stream) => counted(stream.as_mut(), &texts)?,
        }
        let acknowledged = matches!(channel, Channel::Unix(_) | Channel::Udp(_));
        self.open = Some(channel);
        // Of a datagram nobody hears again.
        Ok(if acknowledged { Sent::Taken } else { Sent::OnItsWay })
    }

    fn check(&mut self) -> Result<(), NotSent> {
        let sound = match &mut self.open {
            Some(Channel::Tcp(stream)) => is_open(stream),
            Some(Channel::Tls(stream)) => is_open_tls(stream),
            _ => Ok(()),
        };
        if sound.is_err() {
            self.open = None;
        }
        Ok(sound?)
    }
}

/// One that is too long is too long each time.
fn datagram(sent: io::Result<usize>) -> Result<(), NotSent> {
    match sent {
        Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {
            Err(NotSent::Never { why: "it is longer than a datagram can be".to_owned() })
        }
        sent => Ok(sent.map(drop)?),
    }
}

/// Octet counting (RFC 6587, 3.4.1): a message may hold any byte.
fn counted(stream: &mut impl Write, texts: &[Vec<u8>]) -> io::Result<()> {
    let mut bytes = Vec::new();
    for text in texts {
        write!(bytes, "{} ", text.len())?;
        bytes.extend_from_slice(text);
    }
    stream.write_all(&bytes)?;
    stream.flush()
}

/// A receiver has nothing to say; what it says all the same is in the way of hearing that it has gone.
fn is_open(mut stream: &TcpStream) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    let read = stream.read(&mut [0; 256]);
    stream.set_nonblocking(false)?;
    match read {
        Ok(0) => Err(ErrorKind::ConnectionAborted.into()),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error),
    }
}

/// Likewise; but TLS has something to say of its own, such as tickets, which is read.
fn is_open_tls(stream: &mut StreamOwned<ClientConnection, TcpStream>) -> io::Result<()> {
    stream.sock.set_nonblocking(true)?;
    let read = stream.read(&mut [0; 64]);
    stream.sock.set_nonblocking(false)?;
    match read {
        Ok(0) => Err(ErrorKind::ConnectionAborted.into()),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_as_the_rfc_says() {
        let settings = Syslog { address: String::new(), ca: "/".into() };
        let message = Message {
            uid: "0190-x".into(),
            time: "2026-11-26T01:02:03.123456789Z".into(),
            is_refusal: true,
            kind: "egress".into(),
            text: "{\"a\":\"é\"}".into(),
        };
        let text = SyslogTransport::new(settings, "ho st").text(&message).unwrap();
        let pid = std::process::id();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            format!("<84>1 2026-11-26T01:02:03.123456Z host enforcer {pid} egress - {{\"a\":\"é\"}}")
        );
    }
}
