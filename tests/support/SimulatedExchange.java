package difyexec;

import module java.base;

import static java.nio.charset.StandardCharsets.*;

/// One request and its answer.
final class SimulatedExchange {
    private static final Map<Integer, String> REASONS = Map.of(200, "OK", 201, "CREATED", 308,
            "PERMANENT REDIRECT", 400, "BAD REQUEST", 401, "UNAUTHORIZED", 403, "FORBIDDEN", 404, "NOT FOUND", 405,
            "METHOD NOT ALLOWED", 500, "INTERNAL SERVER ERROR");

    private final String method, target;
    private final Map<String, String> headers;
    private final byte[] body;
    private final OutputStream out;
    private final Map<String, String> answer = new LinkedHashMap<>();
    private boolean last;

    private SimulatedExchange(String method, String target, String version, Map<String, String> headers, byte[] body,
            OutputStream out) {
        this.method = method;
        this.target = target;
        this.headers = headers;
        this.body = body;
        this.out = out;
        this.last = headers.getOrDefault("connection", "").equalsIgnoreCase("close") || version.equals("HTTP/1.0");
    }

    /// The next request of a connection; empty if the client disconnected, or was idle too long.
    static Optional<SimulatedExchange> read(InputStream in, OutputStream out) throws IOException {
        var first = line(in);
        var words = first.split(" ", 3);
        if (words.length < 3) return Optional.empty();
        var headers = new HashMap<String, String>();
        for (var line = line(in); !line.isEmpty(); line = line(in)) {
            int colon = line.indexOf(':');
            if (colon > 0) headers.put(line.substring(0, colon).toLowerCase(Locale.ROOT),
                    line.substring(colon + 1).strip());
        }
        if (headers.containsKey("expect")) {
            out.write("HTTP/1.1 100 Continue\r\n\r\n".getBytes(ISO_8859_1));
            out.flush();
        }
        return Optional.of(new SimulatedExchange(words[0], words[1], words[2], headers, body(in, headers), out));
    }

    private static byte[] body(InputStream in, Map<String, String> headers) throws IOException {
        if (!headers.getOrDefault("transfer-encoding", "").equalsIgnoreCase("chunked"))
            return in.readNBytes(Integer.parseInt(headers.getOrDefault("content-length", "0")));
        var all = new ByteArrayOutputStream();
        for (int size = Integer.parseInt(line(in), 16); size > 0; size = Integer.parseInt(line(in), 16)) {
            all.write(in.readNBytes(size));
            line(in);
        }
        line(in);
        return all.toByteArray();
    }

    /// One line of a head or before a chunk.
    static String line(InputStream in) throws IOException {
        var line = new StringBuilder();
        for (int next = in.read(); next >= 0 && next != '\n'; next = in.read())
            if (next != '\r') line.append((char) next);
        return line.toString();
    }

    String method() {
        return method;
    }

    String path() {
        int query = target.indexOf('?');
        return query < 0 ? target : target.substring(0, query);
    }

    /// Empty if it is missing.
    String query(String name) {
        return Pattern.compile("[?&]" + Pattern.quote(name) + "=([^&]*)").matcher(target).results().findFirst()
                .map(match -> URLDecoder.decode(match.group(1), UTF_8)).orElse("");
    }

    Map<String, String> headers() {
        return headers;
    }

    byte[] body() {
        return body;
    }

    boolean isLast() {
        return last;
    }

    SimulatedExchange header(String name, String value) {
        answer.put(name, value);
        if (name.equals("Connection") && value.equals("close")) last = true;
        return this;
    }

    SimulatedExchange without(String... names) {
        List.of(names).forEach(answer::remove);
        return this;
    }

    void ok(Object body) throws IOException {
        send(Reply.of(200, body));
    }

    void send(Reply reply) throws IOException {
        send(reply.status(), reply.type(), reply.body());
    }

    void send(int status, String type, String text) throws IOException {
        var bytes = text.getBytes(UTF_8);
        head(status, "Content-Type", type, "Content-Length", String.valueOf(bytes.length));
        if (!method.equals("HEAD")) out.write(bytes);
        out.flush();
    }

    /// Sends half of the body; the exception closes the connection.
    void cut(int status, String type, String text) throws IOException {
        var bytes = text.getBytes(UTF_8);
        head(status, "Content-Type", type, "Content-Length", String.valueOf(bytes.length));
        out.write(bytes, 0, bytes.length / 2);
        out.flush();
        throw new IOException("dropped");
    }

    private void head(int status, String... more) throws IOException {
        var head = new StringBuilder("HTTP/1.1 ").append(status).append(' ')
                .append(REASONS.getOrDefault(status, "Status")).append("\r\n");
        for (int i = 0; i < more.length; i += 2)
            head.append(more[i]).append(": ").append(more[i + 1]).append("\r\n");
        answer.forEach((name, value) -> head.append(name).append(": ").append(value).append("\r\n"));
        out.write(head.append("\r\n").toString().getBytes(ISO_8859_1));
    }

    /// Starts an event stream.
    Chunks stream(boolean isNumbered) throws IOException {
        head(200, "Content-Type", "text/event-stream; charset=utf-8", "Transfer-Encoding", "chunked");
        out.flush();
        return new Chunks(out, isNumbered);
    }

    /// The body of a stream, one chunk per event. Events may be numbered, for a client that rejoins the stream.
    record Chunks(OutputStream out, boolean isNumbered) {
        void write(String event) throws IOException {
            var whole = isNumbered ? "id: " + System.nanoTime() + "-0\n" + event : event;
            send(Integer.toHexString(whole.getBytes(UTF_8).length) + "\r\n" + whole + "\r\n");
        }

        /// Sends half of a chunk; the exception closes the connection.
        void cut(String event) throws IOException {
            send(Integer.toHexString(event.getBytes(UTF_8).length) + "\r\n" + event.substring(0, event.length() / 2));
            throw new IOException("dropped");
        }

        void end() throws IOException {
            send("0\r\n\r\n");
        }

        private void send(String text) throws IOException {
            out.write(text.getBytes(UTF_8));
            out.flush();
        }
    }

    /// A complete answer.
    record Reply(int status, String type, String body) {
        static Reply of(int status, Object body) {
            return new Reply(status, "application/json", SimulatedJson.ESCAPED.json(body) + "\n");
        }

        static Reply error(int status, String code, String message) {
            return of(status, SimulatedJson.object("code", code, "message", message, "status", status));
        }

        static Reply notFound() {
            return new Reply(404, "text/html; charset=utf-8", """
                    <!doctype html>
                    <html lang=en>
                    <title>404 Not Found</title>
                    <h1>Not Found</h1>
                    <p>The requested URL was not found on the server. If you entered the URL manually please check \
                    your spelling and try again.</p>
                    """);
        }
    }

    /// A request that is answered with an error before anything is done.
    static final class Refused extends RuntimeException {
        final transient Reply reply;

        Refused(Reply reply) {
            super(reply.toString(), null, false, false);
            this.reply = reply;
        }
    }
}
