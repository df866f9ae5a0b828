package difyexec;

import org.junit.jupiter.api.*;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.*;

import module java.base;

import static difyexec.DifyExec.*;
import static difyexec.ServerTest.*;
import static org.junit.jupiter.api.Assertions.*;

/// Connections that fail, proxies and TLS. Real sockets cause each failure.
final class TransportTest {
    private static final String OK = "HTTP/1.1 200 OK\r\nX-Version: 1.16.1\r\n";

    /// Holds the certificate of a server on 127.0.0.1, which is its own authority.
    private static final class Certificate {
        final Path folder, pem;
        final SSLContext server;

        Certificate() throws Exception {
            folder = Files.createTempDirectory("certificate-");
            var keys = folder.resolve("keys.p12");
            var keytool = Path.of(System.getProperty("java.home"), "bin", "keytool").toString();
            var words = (keytool + " -genkeypair -alias a -keyalg EC -dname CN=server -ext san=ip:127.0.0.1"
                    + " -storepass secret -J-XX:TieredStopAtLevel=1 -keystore " + keys).split(" ");
            assertEquals(0, new ProcessBuilder(words).redirectErrorStream(true)
                    .redirectOutput(ProcessBuilder.Redirect.DISCARD).start().waitFor());
            var store = KeyStore.getInstance(keys.toFile(), "secret".toCharArray());
            pem = Files.writeString(folder.resolve("server.pem"), "-----BEGIN CERTIFICATE-----\n"
                    + Base64.getMimeEncoder().encodeToString(store.getCertificate("a").getEncoded())
                    + "\n-----END CERTIFICATE-----\n");
            var factory = KeyManagerFactory.getInstance(KeyManagerFactory.getDefaultAlgorithm());
            factory.init(store, "secret".toCharArray());
            server = SSLContext.getInstance("TLS");
            server.init(factory.getKeyManagers(), null, null);
        }

        Env.Setting setting() {
            return new Env.Setting("DIFY_CA_FILE", pem.toString(), "", "", "");
        }
    }

    private static Certificate certificate;

    @BeforeAll
    static void createCertificate() throws Exception {
        certificate = new Certificate();
    }

    @AfterAll
    static void deleteCertificate() throws IOException {
        try (var files = Files.list(certificate.folder)) {
            for (var file : files.toList()) Files.delete(file);
        }
        Files.delete(certificate.folder);
    }

    /// Starts a server with TLS. If it wants a certificate, TLS 1.3 clients learn only after their request that theirs
    /// is missing.
    private static Wire secure(boolean wantsCertificate, Wire.Script script) throws IOException {
        var socket = (SSLServerSocket) certificate.server.getServerSocketFactory()
                .createServerSocket(0, 100, InetAddress.getLoopbackAddress());
        socket.setNeedClientAuth(wantsCertificate);
        return new Wire(socket, script);
    }

    private static URI https(Wire wire) {
        return URI.create("https://127.0.0.1:" + wire.port() + "/v1");
    }

    private static Access access(URI url, Optional<URI> proxy, boolean trusts) {
        return new Access(url, KEY, "", "", proxy, trusts ? Optional.of(certificate.setting()) : Optional.empty());
    }

    private static Response run(Access access, Mode mode) {
        try (var client = client(access, LONG, LONG)) {
            return ServerTest.run(client, mode);
        }
    }

    private static Attempt large(Mode mode) {
        return attempt(mode, "user-1", Map.of("id", "r1", "text", "x".repeat(5_000_000)));
    }

    private static void answer(Wire.Connection connection, Mode mode) throws IOException {
        if (mode == BLOCKING) connection.answer(Events.blocking("{\"a\":1}"));
        else {
            connection.startStream();
            connection.chunk(Events.started() + Events.finished("{\"a\":1}"));
            connection.endStream();
        }
    }

    // ── Failures ────────────────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    class ARequestThatFails {
        /// A script of a server, by the name of the failure.
        private static Wire.Script script(String failure, Mode mode) {
            return connection -> {
                switch (failure) {
                    case "closed before the request" -> {}
                    case "closed within the request" -> connection.read(100_000);
                    case "closed after the request", "alert after the request" -> connection.request();
                    case "reset" -> {
                        connection.request();
                        connection.reset();
                    }
                    case "status cut" -> {
                        connection.request();
                        connection.say("HTTP/1.1 20");
                    }
                    case "header cut" -> {
                        connection.request();
                        connection.say("HTTP/1.1 400 Bad Request\r\nContent-Ty");
                    }
                    case "header without an end" -> {
                        connection.request();
                        connection.say("HTTP/1.1 400 Bad Request\r\nX-Version: 1.16.1\r\n");
                    }
                    case "body cut" -> {
                        connection.request();
                        connection.say(OK + "Content-Type: " + (mode == BLOCKING ? "application/json"
                                : "text/event-stream") + "\r\nContent-Length: 999\r\n\r\n{\"data\":");
                    }
                    case "surplus bytes" -> {
                        connection.request();
                        answer(connection, mode);
                        connection.say("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nmore");
                        connection.hold();
                    }
                    case "no TLS", "proxy refuses" -> connection.say("HTTP/1.1 403 Forbidden\r\nContent-Length: 0"
                            + "\r\n\r\n");
                    default -> throw new AssertionError(failure);
                }
            };
        }

        private static Response cause(String failure, Mode mode) throws IOException {
            var attempt = failure.equals("closed within the request") ? large(mode) : attempt(mode);
            switch (failure) {
                case "connection refused" -> {
                    try (var silent = new Socket()) { // it has a port, but does not listen
                        silent.bind(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0));
                        var url = URI.create("http://127.0.0.1:" + silent.getLocalPort() + "/v1");
                        return run(access(url, Optional.empty(), false), mode);
                    }
                }
                case "no route" -> { // the system knows no way to a broadcast address for TCP
                    return run(access(URI.create("http://127.255.255.255/v1"), Optional.empty(), false), mode);
                }
                default -> {}
            }
            boolean isAlert = failure.equals("alert after the request");
            try (var wire = isAlert ? secure(true, script(failure, mode)) : new Wire(script(failure, mode))) {
                var access = switch (failure) {
                    case "alert after the request" -> access(https(wire), Optional.empty(), true);
                    case "no TLS" -> access(https(wire), Optional.empty(), false);
                    case "proxy refuses" -> access(URI.create("https://dify.test/v1"),
                            Optional.of(URI.create("http://127.0.0.1:" + wire.port())), false);
                    default -> access(wire.url(), Optional.empty(), false);
                };
                try (var client = client(access, LONG, LONG)) {
                    return ServerTest.run(client, attempt, new Ears());
                }
            }
        }

        private static String phase(Response response) {
            return switch (response) {
                case Response.NotSent _ -> "not sent";
                case Response.Cut cut when cut.symptom() == Symptom.NO_RESPONSE -> "perhaps sent";
                case Response.Cut _, Response.Ran _, Response.Refused _, Response.Unreadable _ -> "answered";
                case Response.NotUploaded _ -> "not uploaded";
            };
        }

        @ParameterizedTest(name = "{0}")
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', textBlock = """
                failure                   | phase        | decision
                connection refused        | not sent     | unreached
                no route                  | not sent     | unreached
                no TLS                    | not sent     | stop
                proxy refuses             | not sent     | stop
                alert after the request   | perhaps sent | look up
                closed before the request | perhaps sent | look up
                closed within the request | perhaps sent | look up
                closed after the request  | perhaps sent | look up
                reset                     | perhaps sent | look up
                status cut                | perhaps sent | look up
                header cut                | perhaps sent | look up
                header without an end     | answered     | look up
                body cut                  | answered     | look up
                surplus bytes             | answered     | succeeded
                """)
        void isSentAgainOnlyIfItWasNotSent(String failure, String phase, String decision) throws IOException {
            for (var mode : List.of(BLOCKING, STREAMING)) {
                var response = cause(failure, mode);

                assertEquals(phase, phase(response), response::toString);
                assertEquals(decision, Given.word(judge().verdict(attempt(mode), response)), response::toString);
            }
        }
    }

    // ── Content ─────────────────────────────────────────────────────────────────────────────────────────────────────

    /// A response is a response, whatever its JSON contains.
    @Nested
    class JsonOfAnyContent {
        /// Jackson refuses the first two and the last. The numbers after the first two are beyond the range of a time, a
        /// `long` or a `double`.
        private static final List<String> VALUES = List.of("1e99999999999", "-1.5E-99999999999", "1e400", "-1e400",
                "9223372036854775807", "-9223372036854775808", "123456789012345678901234567890", "NaN", "-1", "0.5",
                "null", "true", "\"\"", "\"x\"", "\"12e34567890123\"", "\"{\\\"a\\\":1e99999999999}\"", "[]", "{}",
                "[1e99999999999]", "{\"a\":null}", "\"\\u0000\\ud800\"",
                "{\"\\ud800\":1}");
        private static final String DETAIL = """
                {"id":"RUN","workflow_id":"w","status":"succeeded","inputs":"{\\"id\\":\\"r1\\"}","outputs":{"a":1},
                "error":null,"elapsed_time":1.5,"total_tokens":7,"total_steps":3,"created_at":1,"finished_at":2,
                "handoff_duration":0}""".replace("\n", "");
        private static final List<String> EVENTS = List.of("""
                {"event":"workflow_started","workflow_run_id":"RUN","task_id":"t","data":{"id":"RUN","inputs":{"id":"r1"}}}
                """, """
                {"event":"node_finished","workflow_run_id":"RUN","task_id":"t","data":{"title":"n","status":"succeeded",
                "elapsed_time":0.5,"execution_metadata":{"total_price":"0.1","currency":"USD"}}}
                """, """
                {"event":"human_input_required","workflow_run_id":"RUN","task_id":"t","data":{"node_title":"n",
                "form_token":"f","expiration_time":1}}
                """, """
                {"event":"error","workflow_run_id":"RUN","task_id":"t","status":500,"code":"c","message":"m"}
                """, """
                {"event":"workflow_finished","workflow_run_id":"RUN","task_id":"t","data":DETAIL}
                """);

        /// Returns the text with each of its values replaced by each of the strange ones.
        private static Stream<String> variants(String text) {
            text = text.replace("DETAIL", DETAIL).replace("RUN", Events.RUN).replace("\n", "");
            var variants = new ArrayList<String>();
            var value = Pattern.compile("(?<=\":)(\"(\\\\.|[^\"\\\\])*\"|[-0-9.]+|null|true|false|\\[])").matcher(text);
            while (value.find())
                for (var other : VALUES) variants.add(text.substring(0, value.start()) + other
                        + text.substring(value.end()));
            assertTrue(variants.size() >= 3 * VALUES.size());
            return variants.stream();
        }

        private final AtomicReference<String> next = new AtomicReference<>("");

        private void forEach(String text, boolean isStream, BiConsumer<DifyClient, String> check) throws IOException {
            try (var wire = new Wire(connection -> {
                connection.request();
                if (!isStream) connection.answer(next.get());
                else {
                    connection.startStream();
                    connection.chunk(next.get());
                    connection.endStream();
                }
            }); var client = client(wire.url())) {
                variants(text).forEach(variant -> {
                    next.set(isStream ? "data: " + variant + "\n\n" : variant);
                    check.accept(client, variant);
                });
            }
        }

        private static void isResponse(Response response, String content) {
            assertFalse(response instanceof Response.NotSent, () -> content + " → " + response);
            assertFalse(response instanceof Response.Cut cut && cut.symptom() == Symptom.NO_RESPONSE,
                    () -> content + " → " + response);
        }

        @ParameterizedTest
        @EnumSource(AppKind.class)
        void isAResponseToARun(AppKind kind) throws IOException {
            var message = "{'task_id':'t','message_id':'m','conversation_id':'c','answer':'a','metadata':{'usage':"
                    + "{'total_tokens':7,'total_price':'0.1','currency':'USD'},'retriever_resources':[]}}";
            var blocking = kind == AppKind.CHATFLOW ? Given.json(message)
                    : "{\"task_id\":\"t\",\"workflow_run_id\":\"RUN\",\"data\":DETAIL}";

            forEach(blocking, false, (client, content) -> isResponse(ServerTest.run(client.forApp(kind), BLOCKING),
                    content));
            for (var event : EVENTS)
                forEach(event, true, (client, content) -> isResponse(ServerTest.run(client.forApp(kind), STREAMING),
                        content));
        }

        @Test
        void isAResponseToALookUp() throws IOException {
            var lookUp = lookUp("u", Optional.of(Events.REF), Symptom.CUT);
            BiConsumer<DifyClient, String> look = (client, content) -> {
                if (look(client, lookUp) instanceof LookUpResult.Inconclusive(var response, _)) isResponse(response, content);
            };

            forEach(DETAIL, false, look);
            forEach(DETAIL.replace("succeeded", "running"), false, look);
        }

        @Test
        void isAResponseToAnyOtherRequest() throws IOException {
            forEach(DETAIL, false, (client, content) -> {
                if (client.fetch("/workflows/run/" + Events.RUN) instanceof DifyClient.Reply.NotGot(var response))
                    isResponse(response, content);
            });
            forEach("{\"data\":[],\"has_more\":false,\"total\":0,\"limit\":1}", false, (client, content) -> {
                if (look(client, lookUp("u", Optional.empty(), Symptom.CUT))
                        instanceof LookUpResult.Inconclusive(var response, _)) isResponse(response, content);
            });
            forEach("{\"name\":\"a\",\"mode\":\"workflow\",\"description\":\"\"}", false, (client, content) -> {
                if (client.info() instanceof DifyClient.Reply.NotGot(var response)) isResponse(response, content);
            });
        }
    }

    // ── Proxies and TLS ─────────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    class AProxy {
        private static final String LOGIN = "Basic " + Base64.getEncoder().encodeToString("me:se:cret@".getBytes());

        /// Tunnels to that port, if the login is right.
        private static Wire tunnel(int port) throws IOException {
            return new Wire(connection -> {
                connection.request();
                if (!connection.last.startsWith("CONNECT 127.0.0.1:" + port + " HTTP/1.1\r\n")
                        || !connection.last.contains("Proxy-Authorization: " + LOGIN + "\r\n"))
                    connection.say("HTTP/1.1 407 Login\r\nProxy-Authenticate: Basic realm=\"p\"\r\n"
                            + "Content-Length: 0\r\n\r\n");
                else {
                    connection.say("HTTP/1.1 200 Connected\r\n\r\n");
                    connection.forward(port);
                }
            });
        }

        private static Optional<URI> proxy(String login, Wire proxy) {
            return Optional.of(URI.create("http://" + login + "127.0.0.1:" + proxy.port()));
        }

        @ParameterizedTest
        @EnumSource(value = Mode.class, names = {"BLOCKING", "STREAMING"})
        void passesOnAnEncryptedRequestIfItsLoginIsRight(Mode mode) throws IOException {
            try (var dify = secure(false, connection -> {
                connection.request();
                answer(connection, mode);
            }); var proxy = tunnel(dify.port())) {
                var right = run(access(https(dify), proxy("me:se%3Acret%40@", proxy), true), mode);

                assertEquals("{\"a\":1}", ran(right).outputs().toString());
                assertFalse(dify.requests.getFirst().contains("Proxy-Authorization"));
                assertFalse(proxy.requests.getFirst().contains(KEY));
                for (var login : List.of("", "me:wrong@", "me@")) {
                    var wrong = run(access(https(dify), proxy(login, proxy), true), mode);

                    var notSent = assertInstanceOf(Response.NotSent.class, wrong);
                    assertTrue(notSent.why().contains("127.0.0.1") && notSent.hint().contains("HTTPS_PROXY"));
                }
                assertEquals(1, dify.requests.size());
            }
        }

        /// A refusal is not passed on to the server. A proxy that cannot reach the server may do so later.
        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                status, encrypted, decision
                407,    true,      stop
                407,    false,     stop
                403,    true,      stop
                400,    true,      stop
                502,    true,      unreached
                504,    true,      unreached
                """)
        void isNamedWithItsStatusIfItRefuses(int status, boolean encrypted, String decision) throws IOException {
            try (var proxy = new Wire(connection -> {
                connection.request();
                connection.say("HTTP/1.1 " + status + " No\r\nContent-Length: 2\r\n\r\nno");
            })) {
                var url = URI.create((encrypted ? "https" : "http") + "://dify.test/v1");
                var response = run(access(url, proxy("", proxy), false), BLOCKING);

                var notSent = assertInstanceOf(Response.NotSent.class, response);
                assertEquals(decision, Given.word(judge().verdict(attempt(BLOCKING), response)));
                assertTrue(notSent.why().contains("127.0.0.1"), notSent.why());
                if (status != 407) assertTrue(notSent.why().contains("HTTP " + status), notSent.why());
            }
        }
    }

    @Nested
    class AFileOfAuthorities {
        @TempDir private Path folder;

        private Response runWith(String content) throws IOException {
            var file = Files.writeString(folder.resolve("ca.pem"), content);
            try (var dify = secure(false, connection -> {
                connection.request();
                answer(connection, BLOCKING);
            })) {
                return run(new Access(https(dify), KEY, "", "", Optional.empty(),
                        Optional.of(new Env.Setting("DIFY_CA_FILE", file.toString(), "", "", ""))), BLOCKING);
            }
        }

        @ParameterizedTest
        @ValueSource(strings = {"@", "-----BEGIN PRIVATE KEY-----\nMIGH\n-----END PRIVATE KEY-----\n@",
            "# of the test\r\n\r\n@@"})
        void canContainMoreThanCertificates(String content) throws IOException {
            ran(runWith(content.replace("@", Files.readString(certificate.pem))));
        }

        @ParameterizedTest
        @ValueSource(strings = {"", "hello", "-----BEGIN PRIVATE KEY-----\nMIGH\n-----END PRIVATE KEY-----\n",
            "-----BEGIN CERTIFICATE-----\nMIGH\n-----END CERTIFICATE-----\n", "/dev/null", "/dev/zero", "none.pem", "."})
        void isRejectedIfItContainsNoCertificate(String content) {
            var isFile = List.of("/dev/null", "/dev/zero", "none.pem", ".").contains(content);
            var setting = new Env.Setting("DIFY_CA_FILE", content, "", "", "");

            var problem = assertThrows(Unusable.class, () -> {
                if (isFile) run(new Access(URI.create("https://127.0.0.1/v1"), KEY, "", "", Optional.empty(),
                        Optional.of(setting)), BLOCKING);
                else runWith(content);
            });
            assertTrue(problem.getMessage().startsWith("DIFY_CA_FILE="), problem.getMessage());
            assertEquals(content.equals("none.pem"), problem.getMessage().contains("no such file"));
        }
    }

    @Nested
    class AConnection {
        /// The interim responses, the trailer and the encoding are those that proxies add.
        @ParameterizedTest
        @ValueSource(strings = {"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", ""})
        void skipsInterimResponsesAndTrailers(String interim) throws IOException {
            var body = Events.blocking("{\"a\":1}");
            try (var wire = new Wire(connection -> {
                connection.request();
                connection.say(interim + OK + "Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n");
                for (int at = 0; at < body.length(); at += 50)
                    connection.chunk(body.substring(at, Math.min(body.length(), at + 50)));
                connection.say("0\r\nX-Sum: 1\r\n\r\n");
            })) {
                assertEquals("{\"a\":1}", ran(run(access(wire.url(), Optional.empty(), false), BLOCKING)).outputs()
                        .toString());
                assertFalse(wire.requests.getFirst().toLowerCase(Locale.ROOT).contains("accept-encoding"));
            }
        }

        @Test
        void carriesALineOfMoreThanAMegabyte() throws IOException {
            var text = "あ".repeat(600_000);
            try (var wire = secure(false, connection -> {
                connection.request();
                connection.startStream();
                connection.chunk(Events.started() + Events.finished("{\"a\":\"" + text + "\"}"));
                connection.hold();
            })) {
                var ran = ran(run(access(https(wire), Optional.empty(), true), STREAMING));

                assertEquals(text, ran.outputs().path("a").asText());
            }
        }

        @Test
        void canUseIpv6() throws IOException {
            ServerSocket socket;
            try {
                socket = new ServerSocket(0, 100, InetAddress.getByName("::1"));
            } catch (SocketException problem) {
                Assumptions.abort("no IPv6: " + problem.getMessage());
                return;
            }
            try (var wire = new Wire(socket, connection -> {
                connection.request();
                answer(connection, BLOCKING);
            })) {
                var url = URI.create("http://[::1]:" + wire.port() + "/v1");

                ran(run(access(url, Optional.empty(), false), BLOCKING));
                assertTrue(wire.requests.getFirst().contains("\r\nHost: [::1]:" + wire.port() + "\r\n"));
            }
        }

        @Test
        void isGivenUpInTimeIfTheServerDoesNotAnswerTheTlsHandshake() throws IOException {
            try (var wire = new Wire(Wire.Connection::hold);
                    var client = client(access(https(wire), Optional.empty(), true), SHORT, SHORT)) {
                var response = ServerTest.run(client, BLOCKING);

                assertInstanceOf(Response.NotSent.class, response);
            }
        }

        /// A name server may be silent for longer than a connection may take to open.
        @Test
        void isGivenUpInTimeIfTheNameOfItsHostIsNotFound() {
            var never = new CountDownLatch(1);

            assertThrows(SocketTimeoutException.class, () -> Transport.within(1, () -> {
                never.await();
                return "";
            }));
        }

        /// As the engine does for a stream whose run was found, and the shell at Ctrl-C.
        @ParameterizedTest
        @ValueSource(booleans = {true, false})
        void isEndedByAnInterrupt(boolean virtual) throws Exception {
            var asked = new CountDownLatch(1);
            try (var wire = new Wire(connection -> {
                connection.request();
                asked.countDown();
                connection.hold();
            }); var client = client(wire.url())) {
                var result = new CompletableFuture<Response>();
                var thread = (virtual ? Thread.ofVirtual() : Thread.ofPlatform()).start(() ->
                        result.complete(ServerTest.run(client, BLOCKING)));
                asked.await();
                thread.interrupt();

                assertEquals(Symptom.NO_RESPONSE, cut(result.join()).symptom());
            }
        }

        /// Ctrl-C ends a question of a command, and not the server.
        @ParameterizedTest
        @ValueSource(ints = {0, 3})
        void reportsNoServerAsSilentAfterAnInterrupt(int maxRetries) throws Exception {
            var asked = new CountDownLatch(1);
            var err = new StringWriter();
            try (var wire = new Wire(connection -> {
                connection.request();
                asked.countDown();
                connection.hold();
            })) {
                var access = access(wire.url(), Optional.empty(), false);
                var judge = new Judge(new Backoff(SHORT, SHORT, maxRetries), Judge.RetryRuns.TRANSIENT, access,
                        List.of());
                try (var dify = new Connection(access, client(wire.url()), judge, Optional.empty(),
                        new PrintWriter(err, true))) {
                    var ended = new CompletableFuture<Exception>();
                    var thread = Thread.ofPlatform().start(() -> ended.complete(
                            assertThrows(Exception.class, () -> dify.fetchServerInfo(""))));
                    asked.await();
                    thread.interrupt();

                    assertInstanceOf(InterruptedException.class, ended.join());
                }
            }
            assertEquals("", err.toString());
        }

        @Test
        void isDroppedWhenTheClientIsClosed() throws Exception {
            var asked = new CountDownLatch(1);
            try (var wire = new Wire(connection -> {
                connection.request();
                asked.countDown();
                connection.hold();
            })) {
                var client = client(wire.url());
                var result = CompletableFuture.supplyAsync(() -> ServerTest.run(client, BLOCKING));
                asked.await();
                client.close();

                assertEquals(Symptom.NO_RESPONSE, cut(result.join()).symptom());
                wire.left.await();
                assertInstanceOf(Response.NotSent.class, ServerTest.run(client, BLOCKING));
                assertEquals(1, wire.requests.size());
            }
        }

        /// The check of the first stream fails, because the report that it is silent does.
        @Test
        void keepsItsTimeLimitIfTheCheckOfAnotherOneFails() throws Exception {
            try (var wire = new Wire(connection -> {
                connection.request();
                connection.startStream();
                connection.chunk(Events.started());
                connection.hold();
            })) {
                var access = access(wire.url(), Optional.empty(), false);
                try (var client = new DifyClient(new Transport(access, 1 << 20, SHORT, Response.AT_ONCE), access, AppKind.WORKFLOW,
                        Duration.ofSeconds(2), LONG)) {
                    var failed = CompletableFuture.supplyAsync(() -> client.run(attempt(STREAMING), Map.of(), heard -> {
                        if (heard instanceof StreamEvent.Idle) throw new IllegalStateException("no room");
                    }));
                    assertEquals(Symptom.CUT, cut(failed.join()).symptom());

                    assertEquals(Symptom.TIMED_OUT, cut(ServerTest.run(client, STREAMING)).symptom());
                }
            }
        }
    }
}
