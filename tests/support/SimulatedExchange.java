package difyexec;

import difyexec.SimulatedRoute.Breakage;

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
    private final Socket socket;
    private final InputStream in;
    private final OutputStream out;
    private final Map<String, String> answer = new LinkedHashMap<>();
    private boolean last;
    private Optional<Breakage> breakage = Optional.empty();
    private Duration pingPeriod = Duration.ZERO;
    /// Completed when a gateway in front has closed the connection. Empty without one.
    private Optional<CompletableFuture<Void>> gateway = Optional.empty();

    private SimulatedExchange(String[] first, Map<String, String> headers, byte[] body, Socket socket, InputStream in,
            OutputStream out) {
        this.method = first[0];
        this.target = first[1];
        this.headers = headers;
        this.body = body;
        this.socket = socket;
        this.in = in;
        this.out = out;
        this.last = headers.getOrDefault("connection", "").equalsIgnoreCase("close") || first[2].equals("HTTP/1.0");
    }

    /// The next request of a connection; empty if the client disconnected, or was idle too long.
    ///
    /// @param in what arrives on the socket, and can be marked
    static Optional<SimulatedExchange> read(Socket socket, InputStream in, OutputStream out) throws IOException {
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
        return Optional.of(new SimulatedExchange(words, headers, body(in, headers), socket, in, out));
    }

    /// The same request from a gateway, which collects the response until it has given up.
    SimulatedExchange behind(ByteArrayOutputStream response, CompletableFuture<Void> hasGivenUp) {
        var out = new FilterOutputStream(response) {
            @Override
            public void write(byte[] bytes, int from, int length) throws IOException {
                if (hasGivenUp.isDone()) throw new IOException("the gateway has left");
                response.write(bytes, from, length);
            }
        };
        var passed = new SimulatedExchange(new String[] {method, target, "HTTP/1.1"}, headers, body, socket, in, out);
        passed.gateway = Optional.of(hasGivenUp);
        return passed;
    }

    /// Sends a whole response of another server.
    void pass(byte[] response) throws IOException {
        last = true;
        out.write(response);
        out.flush();
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

    /// Breaks the answer in this way, whatever it would be. Pings are that far apart.
    void breakAnswer(Breakage breakage, Duration pingPeriod) {
        this.breakage = Optional.of(breakage);
        this.pingPeriod = pingPeriod;
    }

    /// Empty if it is missing.
    String query(String name) {
        if (name.equals("page") && breakage.equals(Optional.of(Breakage.REPEATED_PAGE))) return "";
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
        if (breakage.isPresent()) sendBroken(breakage.get(), status, type, text);
        else write(status, type, text);
    }

    private void write(int status, String type, String text) throws IOException {
        var bytes = text.getBytes(UTF_8);
        head(status, "Content-Type", type, "Content-Length", String.valueOf(bytes.length));
        if (!method.equals("HEAD")) out.write(bytes);
        out.flush();
    }

    private void sendBroken(Breakage breakage, int status, String type, String text) throws IOException {
        switch (breakage) {
            case CUT_BEFORE -> throw new IOException("dropped");
            case CUT_WITHIN -> writeHalf(status, type, text);
            case NO_RESPONSE -> awaitLeave();
            case PINGS -> {
                head(status, "Content-Type", type, "Transfer-Encoding", "chunked");
                new Chunks(out, false, Optional.empty()).repeat(" ", pingPeriod);
            }
            case HALF_JSON, NUMBER, REPEATED_PAGE -> write(status, type, breakage.spoiled(text));
            case HTML -> without("X-Version", "X-Env").write(200, "text/html; charset=utf-8",
                    "<!doctype html>\n<title>Sign in</title>\n<h1>Sign in to this network</h1>\n");
            case EMPTY -> write(status, type, "");
            case REDIRECT -> header("Location", target).write(307, "text/html; charset=utf-8",
                    "<!doctype html>\n<title>Redirecting...</title>\n");
        }
    }

    /// Returns whether the client has closed the connection, as a server learns when it writes.
    boolean hasLeft() throws IOException {
        if (gateway.isPresent()) return gateway.get().isDone();
        int idle = socket.getSoTimeout();
        in.mark(1);
        try {
            socket.setSoTimeout(1);
            if (in.read() < 0) return true;
            in.reset(); // the next request is there already
            return false;
        } catch (SocketTimeoutException _) {
            return false;
        } catch (SocketException _) {
            return true; // it was reset
        } finally {
            if (!socket.isClosed()) socket.setSoTimeout(idle);
        }
    }

    /// Waits until the client closes the connection; the exception closes it on this side.
    void awaitLeave() throws IOException {
        gateway.ifPresent(CompletableFuture::join);
        for (boolean isOpen = gateway.isEmpty(); isOpen; ) {
            try {
                isOpen = in.read() >= 0;
            } catch (SocketTimeoutException _) {
                // an idle connection is closed after a time, but this one is not idle
            }
        }
        throw new IOException("the client has left");
    }

    /// Sends half of the body; the exception closes the connection.
    void cut(int status, String type, String text) throws IOException {
        if (breakage.isPresent()) send(status, type, text);
        else writeHalf(status, type, text);
    }

    private void writeHalf(int status, String type, String text) throws IOException {
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

    /// Starts an event stream, or ends the exchange with what replaces it.
    Chunks stream(boolean isNumbered) throws IOException {
        if (breakage.filter(Breakage::isWhole).isPresent()) {
            header("Connection", "close").send(200, "text/event-stream; charset=utf-8", "");
            throw new IOException("answered");
        }
        head(200, "Content-Type", "text/event-stream; charset=utf-8", "Transfer-Encoding", "chunked");
        out.flush();
        var chunks = new Chunks(out, isNumbered, breakage);
        if (breakage.equals(Optional.of(Breakage.PINGS))) chunks.repeat(Chunks.PING, pingPeriod);
        return chunks;
    }

    /// The body of a stream, one chunk per event. Events may be numbered, for a client that rejoins the stream.
    static final class Chunks {
        static final String PING = "event: ping\n\n";
        /// The event that is cut in a stream that breaks.
        private static final int LAST = 3;

        private final OutputStream out;
        private final boolean isNumbered;
        private final Optional<Breakage> breakage;
        private int events = 0;

        Chunks(OutputStream out, boolean isNumbered, Optional<Breakage> breakage) {
            this.out = out;
            this.isNumbered = isNumbered;
            this.breakage = breakage;
        }

        void write(String event) throws IOException {
            boolean isData = event.startsWith("data: ");
            if (isData && ++events == LAST && breakage.equals(Optional.of(Breakage.CUT_WITHIN))) cut(event);
            var sent = isData && breakage.isPresent() ? "data: "
                    + breakage.get().spoiled(event.substring(6).strip()) + "\n\n" : event;
            send(chunk(isNumbered ? "id: " + System.nanoTime() + "-0\n" + sent : sent));
        }

        /// Sends half of a chunk; the exception closes the connection.
        void cut(String event) throws IOException {
            send(Integer.toHexString(event.getBytes(UTF_8).length) + "\r\n" + event.substring(0, event.length() / 2));
            throw new IOException("dropped");
        }

        void end() throws IOException {
            if (breakage.equals(Optional.of(Breakage.CUT_WITHIN))) throw new IOException("dropped");
            send("0\r\n\r\n");
        }

        /// Sends this again and again; the exception comes when the client has left.
        private void repeat(String text, Duration period) throws IOException {
            while (true) {
                send(chunk(text));
                LockSupport.parkNanos(period.toNanos());
            }
        }

        private static String chunk(String text) {
            return Integer.toHexString(text.getBytes(UTF_8).length) + "\r\n" + text + "\r\n";
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
