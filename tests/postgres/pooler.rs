//! The worst proxy that is still right: each transaction of a connection may go to another server than the one
//! before. Prepared statements are there on each, as with PgBouncer from 1.21 on and with RDS Proxy.
//!
//! Queries for the position of a server go to the last one, and reads of users to the first. So it happens where
//! a proxy gives the session that was used last to who is alone, and further ones to those who come together.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A message of the frontend/backend protocol, after the start-up (PostgreSQL manual, chapter 54).
struct Message {
    kind: u8,
    body: Vec<u8>,
}

/// A server's session, and the statements that are prepared on it.
struct Session {
    stream: TcpStream,
    prepared: HashSet<Vec<u8>>,
}

/// Which server a transaction goes to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Choice {
    /// What reads users goes to the first, any other to the last.
    ByText,
    /// The next one each time.
    ByTurns,
}

/// Starts the proxy in front of servers of the superuser's; returns its URL.
pub(crate) async fn start(servers: &[SocketAddr]) -> String {
    start_with(servers, Choice::ByText).await
}

/// The same, of sessions that take turns, whatever the statement.
pub(crate) async fn start_by_turns(servers: &[SocketAddr]) -> String {
    start_with(servers, Choice::ByTurns).await
}

async fn start_with(servers: &[SocketAddr], choice: Choice) -> String {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgres://postgres@{}/postgres", socket.local_addr().unwrap());
    let servers: Arc<[SocketAddr]> = servers.into();
    tokio::spawn(async move {
        let turn = Arc::new(AtomicUsize::new(0));
        while let Ok((client, _)) = socket.accept().await {
            let (servers, turn) = (servers.clone(), turn.clone());
            tokio::spawn(async move {
                // A client that leaves is no error.
                let _ = serve(client, &servers, &turn, choice).await;
            });
        }
    });
    url
}

async fn serve(
    mut client: TcpStream,
    servers: &[SocketAddr],
    turn: &AtomicUsize,
    choice: Choice,
) -> io::Result<()> {
    let startup = startup(&mut client).await?;
    let mut sessions = Vec::new();
    for server in servers {
        let mut stream = TcpStream::connect(server).await?;
        stream.write_all(&startup).await?;
        let greeting = until_ready(&mut stream).await?;
        if sessions.is_empty() {
            send(&mut client, &greeting).await?;
        }
        sessions.push(Session { stream, prepared: HashSet::new() });
    }
    let mut texts: HashMap<Vec<u8>, Message> = HashMap::new();
    let (mut at, mut is_open) = (0, false);
    loop {
        let batch = batch(&mut client).await?;
        for message in batch.iter().filter(|message| message.kind == b'P') {
            texts
                .insert(name(&message.body, 0), Message { kind: b'P', body: message.body.clone() });
        }
        if !is_open {
            at = match batch.iter().find_map(Message::statement) {
                _ if choice == Choice::ByTurns => (at + 1) % sessions.len(),
                Some(statement) if texts.get(&statement).is_some_and(Message::reads_users) => 0,
                Some(_) => sessions.len() - 1,
                None => turn.fetch_add(1, Ordering::Relaxed) % sessions.len(),
            };
        }
        let session = &mut sessions[at];
        let mut extra = 0;
        for message in &batch {
            extra += session.prepare(message, &texts).await?;
        }
        send(&mut session.stream, &batch).await?;
        let mut replies = until_ready(&mut session.stream).await?;
        replies.retain(|message| {
            message.kind != b'1' || extra == 0 || {
                extra -= 1;
                false
            }
        });
        is_open = replies.last().is_some_and(|ready| ready.body != b"I");
        send(&mut client, &replies).await?;
    }
}

impl Message {
    /// The prepared statement that it is about.
    fn statement(&self) -> Option<Vec<u8>> {
        match self.kind {
            b'P' => Some(name(&self.body, 0)),
            b'B' => Some(name(&self.body, name(&self.body, 0).len() + 1)),
            b'D' if self.body[0] == b'S' => Some(name(&self.body, 1)),
            _ => None,
        }
    }

    fn reads_users(&self) -> bool {
        String::from_utf8_lossy(&self.body).contains("from users")
    }
}

impl Session {
    /// Prepares the statement of a message here if another session has it. Returns the number of replies that the client does
    /// not expect.
    async fn prepare(
        &mut self,
        message: &Message,
        texts: &HashMap<Vec<u8>, Message>,
    ) -> io::Result<u32> {
        let Some(wanted) = message.statement() else { return Ok(0) };
        let is_new = self.prepared.insert(wanted.clone());
        match texts.get(&wanted) {
            Some(text) if is_new && message.kind != b'P' => {
                send(&mut self.stream, std::slice::from_ref(text)).await?;
                Ok(1)
            }
            _ => Ok(0),
        }
    }
}

/// A name in a message, up to the zero after it.
fn name(body: &[u8], from: usize) -> Vec<u8> {
    body[from..].iter().copied().take_while(|byte| *byte != 0).collect()
}

/// The client's first message; it requests TLS before, and the reply is that there is none.
async fn startup(client: &mut TcpStream) -> io::Result<Vec<u8>> {
    loop {
        let length = client.read_u32().await?;
        let mut body = vec![0; length as usize - 4];
        client.read_exact(&mut body).await?;
        if body[..4] == 80_877_103_u32.to_be_bytes() {
            client.write_all(b"N").await?;
            continue;
        }
        return Ok([&length.to_be_bytes()[..], &body].concat());
    }
}

/// What a client sends until it waits for a reply.
async fn batch(client: &mut TcpStream) -> io::Result<Vec<Message>> {
    let mut batch = Vec::new();
    loop {
        let message = receive(client).await?;
        match message.kind {
            b'X' => return Err(io::ErrorKind::UnexpectedEof.into()),
            b'S' | b'Q' => {
                batch.push(message);
                return Ok(batch);
            }
            _ => batch.push(message),
        }
    }
}

/// What a server sends until it is ready again.
async fn until_ready(server: &mut TcpStream) -> io::Result<Vec<Message>> {
    let mut replies = Vec::new();
    loop {
        let message = receive(server).await?;
        let is_last = message.kind == b'Z';
        replies.push(message);
        if is_last {
            return Ok(replies);
        }
    }
}

async fn receive(stream: &mut TcpStream) -> io::Result<Message> {
    let kind = stream.read_u8().await?;
    let mut body = vec![0; stream.read_u32().await? as usize - 4];
    stream.read_exact(&mut body).await?;
    Ok(Message { kind, body })
}

async fn send(stream: &mut TcpStream, messages: &[Message]) -> io::Result<()> {
    let mut bytes = Vec::new();
    for Message { kind, body } in messages {
        bytes.push(*kind);
        bytes.extend(u32::try_from(body.len() + 4).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend(body);
    }
    stream.write_all(&bytes).await
}
