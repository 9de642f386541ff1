//! HTTP/1.1 to the letter of RFC 9112: what two readers cannot understand differently, and nothing else.
//!
//! The pod of the `request` target reads so, which shows each byte too many or too few that the activator writes. What a client has
//! sent is read so, too: where its requests have only one meaning, the pod must get exactly that.

/// A request that has only one meaning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The method.
    pub method: String,
    /// The target as it was written.
    pub target: String,
    /// The digit after `HTTP/1.`.
    pub minor: u8,
    /// The fields, names in lower case.
    pub fields: Vec<(String, Vec<u8>)>,
    /// The body without its coding.
    pub body: Vec<u8>,
}

/// The head of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The fields, names in lower case.
    pub fields: Vec<(String, Vec<u8>)>,
}

/// What was read: a whole thing and how many bytes it has, or nothing yet, or why it is not to be read.
pub type Read<T> = Result<Option<(T, usize)>, &'static str>;

impl Request {
    /// All values of a field.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        of(&self.fields, name)
    }
}

impl Answer {
    /// The first value of a field.
    pub fn first<'a>(&'a self, name: &'a str) -> Option<&'a [u8]> {
        of(&self.fields, name).next()
    }
}

fn of<'a>(fields: &'a [(String, Vec<u8>)], name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    let named = fields.iter().filter(move |(field, _)| field == name);
    named.map(|(_, value)| value.as_slice())
}

/// Reads the request at the beginning of `bytes`.
///
/// # Errors
/// If it could be read in more than one way, or in none.
pub fn request(bytes: &[u8]) -> Read<Request> {
    let Some((line, mut at)) = line(bytes)? else {
        return Ok(None);
    };
    let line = std::str::from_utf8(line).map_err(|_| "a request line that is no text")?;
    let mut parts = line.split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err("a request line that has not three parts");
    };
    if !is_token(method.as_bytes()) {
        return Err("a method that is none");
    }
    // Text outside of ASCII has no business there, but only one meaning; as nginx does, Ebb lets it through.
    let is_char = |b: u8| b.is_ascii_graphic() || !b.is_ascii();
    if target.is_empty() || !target.bytes().all(is_char) {
        return Err("a target that is none");
    }
    let minor = match version {
        "HTTP/1.1" => 1,
        "HTTP/1.0" => 0,
        _ => return Err("a version that is none"),
    };
    let Some((fields, length)) = fields(&bytes[at..])? else {
        return Ok(None);
    };
    at += length;
    let mut request = Request {
        method: method.to_owned(),
        target: target.to_owned(),
        minor,
        fields,
        body: Vec::new(),
    };
    let Some((body, length)) = body(&request, &bytes[at..])? else {
        return Ok(None);
    };
    request.body = body;
    Ok(Some((request, at + length)))
}

fn body(request: &Request, bytes: &[u8]) -> Read<Vec<u8>> {
    let lengths: Vec<&[u8]> = request.all("content-length").collect();
    let codings: Vec<&[u8]> = request.all("transfer-encoding").collect();
    match (&lengths[..], &codings[..]) {
        ([], []) => Ok(Some((Vec::new(), 0))),
        ([length], []) => {
            let digit = |digit: &u8| digit.is_ascii_digit().then(|| usize::from(digit - b'0'));
            let number = |sum: usize, next: &u8| sum.checked_mul(10)?.checked_add(digit(next)?);
            let number = length.iter().try_fold(0, number);
            let length = number.filter(|_| !length.is_empty());
            let length = length.ok_or("a length that is none")?;
            let body = bytes.get(..length);
            Ok(body.map(|body| (body.to_vec(), length)))
        }
        ([], [coding]) if coding.eq_ignore_ascii_case(b"chunked") && request.minor == 1 => {
            chunks(bytes)
        }
        ([], _) => Err("a coding that is not chunked alone"),
        ([_, _, ..], []) => Err("two lengths"),
        _ => Err("a length and a coding"),
    }
}

fn chunks(bytes: &[u8]) -> Read<Vec<u8>> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let Some((line, length)) = line(&bytes[at..])? else {
            return Ok(None);
        };
        at += length;
        // An extension has no meaning, but must be one.
        let digits = line.split(|b| *b == b';').next().unwrap_or_default();
        if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err("a chunk's size that is none");
        }
        let digit = |b: u8| char::from(b).to_digit(16).unwrap_or_default() as usize;
        let size = digits.iter().fold(0, |sum, b| sum * 16 + digit(*b));
        if size == 0 {
            let trailers = fields(&bytes[at..])?;
            return Ok(trailers.map(|(_, length)| (body, at + length)));
        }
        let Some(data) = bytes.get(at..at + size) else {
            return Ok(None);
        };
        body.extend_from_slice(data);
        at += size;
        match bytes.get(at..at + 2) {
            Some(b"\r\n") => at += 2,
            Some(_) => return Err("a chunk that is longer than its size"),
            None => return Ok(None),
        }
    }
}

/// Reads the head of the answer at the beginning of `bytes`.
///
/// # Errors
/// If it is none.
pub fn answer(bytes: &[u8]) -> Read<Answer> {
    let Some((line, at)) = line(bytes)? else {
        return Ok(None);
    };
    let status = match line {
        [
            b'H',
            b'T',
            b'T',
            b'P',
            b'/',
            b'1',
            b'.',
            b'0' | b'1',
            b' ',
            status @ ..,
        ] => status,
        _ => return Err("a status line that is none"),
    };
    let status = status.get(..3).and_then(|s| std::str::from_utf8(s).ok());
    let status = status.and_then(|s| s.parse().ok());
    let status = status.ok_or("a status that is none")?;
    let fields = fields(&bytes[at..])?;
    Ok(fields.map(|(fields, length)| (Answer { status, fields }, at + length)))
}

/// Fields up to the empty line, which is read, too.
fn fields(bytes: &[u8]) -> Read<Vec<(String, Vec<u8>)>> {
    let (mut fields, mut at) = (Vec::new(), 0);
    loop {
        let Some((line, length)) = line(&bytes[at..])? else {
            return Ok(None);
        };
        at += length;
        if line.is_empty() {
            return Ok(Some((fields, at)));
        }
        let colon = line.iter().position(|b| *b == b':');
        let (name, value) = line.split_at(colon.ok_or("a field without a colon")?);
        let value = value[1..].trim_ascii();
        if !is_token(name) {
            return Err("a field's name that is none");
        }
        if !value
            .iter()
            .all(|b| *b == b'\t' || (*b >= b' ' && *b != 127))
        {
            return Err("a field's value with control characters");
        }
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        fields.push((name, value.to_vec()));
    }
}

/// A line without its end, and its length with it.
fn line(bytes: &[u8]) -> Read<&[u8]> {
    let Some(end) = bytes.iter().position(|b| *b == b'\n' || *b == b'\r') else {
        return Ok(None);
    };
    match bytes.get(end..end + 2) {
        Some(b"\r\n") => Ok(Some((&bytes[..end], end + 2))),
        None if bytes[end] == b'\r' => Ok(None),
        _ => Err("an end of a line that is not CR LF"),
    }
}

fn is_token(bytes: &[u8]) -> bool {
    let is_char = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    !bytes.is_empty() && bytes.iter().all(is_char)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNKED: &str = "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

    #[test]
    fn whole_requests_are_read_and_parts_are_waited_for() {
        for (text, body) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), ""),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody".to_owned(),
                "body",
            ),
            (
                format!("{CHUNKED}2;x=y\r\nbo\r\n2\r\ndy\r\n0\r\nx: y\r\n\r\n"),
                "body",
            ),
        ] {
            for end in 0..text.len() {
                assert_eq!(request(&text.as_bytes()[..end]), Ok(None), "{end}");
            }
            let more = format!("{text}GET");
            let (read, length) = request(more.as_bytes()).unwrap().unwrap();
            assert_eq!((read.body, length), (body.into(), text.len()));
            assert_eq!(read.fields[0], ("host".to_owned(), b"a".to_vec()));
        }
    }

    #[test]
    fn what_has_two_meanings_is_refused() {
        for text in [
            "GET  / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\n\n",
            "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
            "GET / HTTP/1.1\r\nx: 1\r\n 2\r\n\r\n",
            "GET / HTTP/1.1\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\nbody",
            "GET / HTTP/1.1\r\nContent-Length: +4\r\n\r\nbody",
            "GET / HTTP/1.1\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            &format!("{CHUNKED}2\r\nbody\r\n0\r\n\r\n"),
            &format!("{CHUNKED}\r\nbody"),
        ] {
            assert!(request(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn answers_are_read() {
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        let (read, length) = answer(text).unwrap().unwrap();
        assert_eq!((read.status, length), (200, text.len() - 2));
        assert_eq!(read.first("content-length"), Some(&b"2"[..]));
        assert!(answer(b"ok HTTP/1.1 200\r\n").is_err());
    }
}
