package difyexec;

import com.github.tomakehurst.wiremock.WireMockServer;
import org.junit.jupiter.api.*;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.*;
import org.junit.jupiter.params.provider.*;

import module java.base;

import static difyexec.DifyExec.*;
import static com.github.tomakehurst.wiremock.client.WireMock.*;
import static com.github.tomakehurst.wiremock.core.WireMockConfiguration.options;
import static difyexec.Given.json;
import static difyexec.Given.tree;
import static java.nio.charset.StandardCharsets.UTF_8;
import static org.junit.jupiter.api.Assertions.*;

/// Whole commands: settings, command lines, servers that stop a batch. Every call is searched for the key.
final class SettingsTest extends WholeCommand {
    @Nested
    class TheServer {
        private static final int SLOTS = 2;
        private final Dify dify = dify();

        /// Checks that the session stopped early with a hint, that no row failed, and that little was sent.
        private void stopped(Call call, String... words) throws IOException {
            call.exits(Set.of(words).contains("DIFY_WORKFLOW_ID") ? 2 : 4).reports(words).omits("\tat ", "failed in", "failed,");
            assertTrue(dify.requests() <= SLOTS + 3, () -> dify.requests() + " requests");
            assertFalse(Files.exists(file("results.jsonl.retry")));
            if (Files.exists(file("results.jsonl.log"))) assertEquals("pending=20", status());
        }

        private Call run(String... more) throws IOException {
            rows(20);
            return dify.run(words(List.of("-c", "" + SLOTS), more));
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', nullValues = "-", textBlock = """
                to   | status | code                  | message                         | version | named
                info | 401    | unauthorized          | Access token is invalid         | -       | DIFY_API_KEY
                info | 403    | forbidden             | The app's API has been disabled | -       | been disabled
                runs | 400    | invalid_param         | Workflow not published          | -       | publish
                runs | 400    | not_workflow_app      | Please check your app mode      | -       | another kind
                runs | 404    | not_found             | Workflow not found with id: v-1 | 7344392b-14a4-367f-b871-edc3b3a05af3 | DIFY_WORKFLOW_ID
                runs | 400    | bad_request           | Invalid workflow_id format: abc | 7344392b-14a4-367f-b871-edc3b3a05af3 | DIFY_WORKFLOW_ID
                runs | 403    | workflow_version_execution_not_allowed | Not on this plan | 7344392b-14a4-367f-b871-edc3b3a05af3 | plan
                runs | 429    | rate_limit_error | Workflow execution quota limit reached for tenant t | - | quota
                """)
        void stopsTheBatchIfItRefusesAllRuns(String to, int status, String code, String message, String version,
                String named) throws IOException {
            if (to.equals("info")) dify.info(dify.refused(status, code, message));
            else dify.rows(dify.refused(status, code, message));

            var call = version == null ? run() : run("--workflow-id", version);

            stopped(call, named, "hint: ");
            assertTrue(version == null || !call.next().contains("--workflow-id"), call::toString);

            if (to.equals("info")) assertEquals(0, dify.runs());
            if (version != null) dify.server.verify(dify.runs(),
                    postRequestedFor(urlEqualTo("/v1/workflows/" + version + "/run")));
        }

        @ParameterizedTest
        @CsvSource(delimiter = '|', textBlock = """
                404 | text/html        | <html><title>404 Not Found</title></html>
                200 | text/html        | <html>Sign in</html>
                200 | application/json | {"status":"ok"}
                308 | text/html        | moved
                """)
        void isRejectedBeforeAnyRunIfItIsNotDify(int status, String type, String body) throws IOException {
            dify.info(aResponse().withStatus(status).withHeader("Content-Type", type).withBody(body)
                    .withHeader("Location", dify.url() + "/info"));

            stopped(run(), dify.url(), "DIFY_API_BASE_URL");

            assertEquals(0, dify.runs());
        }

        @ParameterizedTest
        @ValueSource(ints = {200, 404})
        void isRejectedWithTheCompleteUrlIfItsUrlLacksThePath(int status) throws IOException {
            var address = dify.url().replace("/v1", "");
            dify.server.stubFor(get(urlEqualTo("/info")).willReturn(aResponse().withStatus(status)
                    .withHeader("Content-Type", "text/html").withBody("<html>Dify</html>")));

            stopped(run("--base-url", address), address, "DIFY_API_BASE_URL to " + dify.url());

            assertEquals(0, dify.runs());
        }

        @Test
        void canServeItsApiAtTheRootPath() throws IOException {
            rows(1);
            dify.server.stubFor(get(urlEqualTo("/info")).willReturn(dify.answer(200, "{\"mode\":\"workflow\"}")));
            dify.server.stubFor(get(urlEqualTo("/parameters"))
                    .willReturn(dify.answer(200, "{\"user_input_form\":[{\"paragraph\":{\"variable\":\"text\"}}]}")));
            dify.server.stubFor(post(urlEqualTo("/workflows/run")).willReturn(dify.ended("succeeded", "")));

            dify.run("--base-url", dify.url().replace("v1", "")).exits(0);
        }

        @Test
        void isReportedIfItsHostNameIsUnknown() throws IOException {
            var name = "a".repeat(64) + ".test"; // this is too long for a name, so that no server is asked for it

            var call = run("--base-url", "http://" + name + "/v1", "--max-retries", "0");

            stopped(call, name, "unknown host", "DIFY_API_BASE_URL");
        }

        /// The first is the name of a service in a Compose file. Nothing listens at the first address of the last.
        @ParameterizedTest
        @CsvSource({"http, dify_api", "HTTP, dify_api", "Http, 127.0.0.1", "http, dify.test"})
        void mayHaveAnUnderscoreASchemeInCapitalsAndSeveralAddresses(String scheme, String host) throws Exception {
            var dify = new Simulated("--latency", "10ms");
            rows(1);
            var hosts = Files.writeString(file("hosts"),
                    "127.0.0.1 dify_api\n127.0.0.9 dify.test\n127.0.0.1 dify.test\n");
            var words = Given.Tool.words("-Djdk.net.hosts.file=" + hosts);
            var url = dify.url().replace("127.0.0.1", host).replaceFirst("http", scheme);
            words.addAll(List.of(typed("run", "--base-url", url)));

            ended(start(words, dify.settings())).exits(0);
        }

        /// A machine that is gone answers nothing, like a server whose queue of connections is full. The time for a
        /// connection, 20 s, is shared by the addresses.
        @Tag("slow")
        @Test
        void mayHaveAFirstAddressThatIsSilent() throws Exception {
            var dify = new Simulated();
            rows(1);
            int port = URI.create(dify.url()).getPort();
            var hosts = Files.writeString(file("hosts"), Stream.of("127.0.0.9", "127.0.0.2", "127.0.0.3", "127.0.0.1")
                    .map(address -> address + " dify.test\n").collect(Collectors.joining()));
            try (var silent = new ServerSocket(port, 1, InetAddress.getByName("127.0.0.9"));
                    var queue = new FullQueue(silent.getLocalSocketAddress())) {
                var usual = time(dify, hosts, "127.0.0.1");
                var shared = time(dify, hosts, "dify.test").minus(usual);

                // without the share or the preference, 20 s and more
                assertTrue(shared.toSeconds() < 15, () -> shared + " after " + usual);
            }
        }

        private Duration time(Simulated dify, Path hosts, String host) throws Exception {
            var words = Given.Tool.words("-Djdk.net.hosts.file=" + hosts);
            words.addAll(List.of(typed("run", "--fresh", "--base-url", dify.url().replace("127.0.0.1", host))));
            long start = System.nanoTime();
            ended(start(words, dify.settings())).exits(0);
            return Duration.ofNanos(System.nanoTime() - start);
        }

        /// Fills a server's queue of connections.
        private static final class FullQueue implements AutoCloseable {
            final List<SocketChannel> sockets = new ArrayList<>();

            FullQueue(SocketAddress server) throws IOException {
                for (int i = 0; i < 8; i++) {
                    var socket = SocketChannel.open();
                    sockets.add(socket);
                    socket.configureBlocking(false);
                    socket.connect(server);
                }
            }

            @Override
            public void close() throws IOException {
                for (var socket : sockets) socket.close();
            }
        }

        @ParameterizedTest
        @ValueSource(strings = {"/workflows/run", "/chat-messages/", "/info"})
        void isRejectedWithThePartToKeepIfItsUrlIsThatOfARequest(String route) throws IOException {
            var dify = new Simulated();
            rows(1);

            dify.run("--base-url", dify.url() + route).exits(2)
                    .reports("--base-url", "keep only " + dify.url());

            assertEquals(0, dify.requests.size());
        }

        /// The note about silence would come after 10 s.
        @Tag("slow")
        @Test
        void isNotReportedAsSilentWhileTheToolObeysItsRetryAfter() throws IOException {
            rows(1);
            var asked = new AtomicInteger();
            var url = serve(exchange -> {
                boolean isFirst = asked.incrementAndGet() == 1;
                if (isFirst) exchange.getResponseHeaders().add("Retry-After", "11");
                var body = json("{'name':'a','mode':'workflow','user_input_form':[{'paragraph':{'variable':'text'}}]}")
                        .getBytes();
                exchange.sendResponseHeaders(isFirst ? 429 : 200, body.length);
                exchange.getResponseBody().write(body);
            });

            call(settingsFor(url), "check", "-i", input()).exits(0).says("Retry-After").omits("Waiting for a response");
        }

        @Test
        void endsTheSessionAfterAllRetriesIfItDoesNotRespond() throws IOException {
            var settings = dify.settings("DIFY_API_BASE_URL", "http://127.0.0.1:1/v1"); // nothing listens there
            rows(20);

            call(settings, typed("run", "--max-retries", "2")).exits(4)
                    .reports(settings.get("DIFY_API_BASE_URL"), "3 times", "the network");

            assertEquals("", content("results.jsonl.log"));
            assertFalse(Files.exists(file("results.jsonl.retry")));
        }

        @Test
        void isRequestedAgainAtMostMaxRetriesTimesIfBusy() throws IOException {
            rows(3);
            dify.info(aResponse().withStatus(503));

            dify.run("--max-retries", "2").exits(4).reports("3 times", "HTTP 503").hints("log");

            assertEquals(3, dify.requests());
            dify.server.verify(3, getRequestedFor(urlEqualTo("/v1/info")));
        }

        @Test
        void isRequestedAgainAfterAShortRetryAfterTime() throws IOException {
            dify.inTurn(() -> get(urlEqualTo("/v1/info")), aResponse().withStatus(429).withHeader("Retry-After", "1"),
                    dify.answer(200, "{\"mode\":\"workflow\"}"));

            var call = run().exits(0);

            assertTrue(call.err().matches("(?s).* \\d\\d:\\d\\d \\(Retry-After\\)\\R.*"), call.err());
        }

        @Test
        void endsTheSessionIfItsRetryAfterTimeIsADay() throws IOException {
            dify.info(aResponse().withStatus(503).withHeader("Retry-After", "86400"));
            var call = run();

            stopped(call, LocalDate.now().plusDays(1).toString());
            assertTrue(call.err().matches("(?s).* \\d\\d:\\d\\d [+-]\\d\\d:\\d\\d.*"), call.err());
            assertEquals(0, dify.runs());
        }

        @Test
        void theReasonWhyItStopsTheBatchIsLoggedWithoutTheHint() throws IOException {
            var dify = new Simulated();
            dify.app.onStart(() -> dify.app.become(Simulator.Access.FORGOTTEN));
            rows(2);

            var call = dify.run("-c", "1").exits(4).says("\nhint: ");

            var why = events("stop").getLast().path("why").asText();
            assertTrue(why.endsWith("(401: Access token is invalid)") && call.err().contains(why), why);
        }
    }

    @Nested
    class TheSettings {
        private final Simulated dify = new Simulated("--latency", "10ms");

        private Object value(String option, Map<String, String> settings, String... more) {
            var line = commandLine(Given.env(settings));
            line.parseArgs(typed("run", more));
            return line.getSubcommands().get("run").getCommandSpec().findOption(option).getValue();
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                option,                variable,            default,                one,                    other
                --base-url,            DIFY_API_BASE_URL,   https://api.dify.ai/v1, http://a/v1,            http://b/v1
                --workflow-id,         DIFY_WORKFLOW_ID,    '',                     abc,                    def
                --max-retries,         MAX_RETRIES,         3,                      0,                      7
                --timeout,             TIMEOUT,             PT5M,                   PT1M30S,                PT0.5S
                """)
        void preferOptionsToVariablesAndVariablesToDefaults(String option, String variable, String standard,
                String one, String other) {
            String typed = plain(one), set = plain(other);

            assertEquals(standard, value(option, Map.of()).toString());
            assertEquals(standard, value(option, Map.of(variable, "")).toString(), "an empty variable is none");
            assertEquals(other, value(option, Map.of(variable, set)).toString());
            assertEquals(one, value(option, Map.of(variable, set), option, typed).toString());
        }

        @Test
        void determineTheDelaysOfRetriesByVariablesAlone() {
            Function<Map<String, String>, List<Duration>> delays = settings -> {
                var line = commandLine(Given.env(settings));
                line.parseArgs(typed("run"));
                var work = ((Run) line.getSubcommands().get("run").getCommandSpec().userObject()).work;
                try (var connection = work.setup.connect(Optional.empty(), "", work.retrying, 1)) {
                    return List.of(connection.judge().backoff().initial(), connection.judge().backoff().max());
                }
            };
            var key = Map.of("DIFY_API_KEY", KEY);

            assertEquals(List.of(Duration.ofSeconds(1), Duration.ofSeconds(60)), delays.apply(key));
            assertEquals(List.of(Duration.ofMillis(1500), Duration.ofMinutes(2)), delays.apply(Map.of(
                    "DIFY_API_KEY", KEY, "INITIAL_RETRY_DELAY", "1.5", "MAX_RETRY_DELAY", "2m")));
        }

        /// Returns the value as it is typed in a shell.
        private static String plain(String value) {
            return value.startsWith("PT") ? Duration.parse(value).toMillis() + "ms" : value;
        }

        /// Such as a whole file that was pasted. A pattern of its beginnings would have billions of characters.
        @ParameterizedTest
        @CsvSource({"300, false", "301, true", "200000, true"})
        void rejectsAKeyThatIsTooLong(int length, boolean isRejected) throws IOException {
            rows(1);
            var key = "app-" + "x1".repeat(length).substring(0, length - 4);
            var call = call(Map.of("DIFY_API_KEY", key, "DIFY_API_BASE_URL", "http://127.0.0.1:1/v1"), typed("run",
                    "--max-retries", "0"));

            if (isRejected) call.exits(2).reports("DIFY_API_KEY", Text.number(length)).hints("key");
            else call.exits(4);
        }

        @ParameterizedTest
        @CsvSource({"TIMEOUT, abc", "TIMEOUT, -1", "MAX_RETRY_DELAY, 1 day", "INITIAL_RETRY_DELAY, 1s2",
            "MAX_RETRIES, many", "MAX_RETRIES, 1.5", "DIFY_API_BASE_URL, dify", "DIFY_API_BASE_URL, ftp://dify/v1",
            "DIFY_API_BASE_URL, //127.0.0.1/v1",
            "DIFY_API_BASE_URL, http://dify_api:65536/v1", "DIFY_CA_FILE, none.pem"})
        void anInvalidVariableIsRejectedWithItsSource(String variable, String text) throws IOException {
            rows(1);

            call(dify.settings(variable, text), typed("run")).exits(2)
                    .reports("difyexec: " + variable + "=" + text + ": ");
            call(withFile(Map.of("DIFY_API_KEY", KEY), "# mine\n" + variable + "=" + text), typed("run")).exits(2)
                    .reports("difyexec: " + variable + " in " + file(".env") + ": ").omits(text + ":");

            assertEquals(0, dify.requests.size());
            assertEquals(Set.of("data.csv", ".env"), names());
        }

        /// Adds a `.env` file, whose settings the given ones override.
        private Env withFile(Map<String, String> settings, String content) throws IOException {
            Files.writeString(file(".env"), content);
            return Given.env(settings, folder);
        }

        /// The files are as people write them, with `@` for the key.
        @ParameterizedTest(name = "{0}")
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', quoteCharacter = '`', textBlock = """
                kind                   | text                                                | charset    | works
                plain                  | DIFY_API_KEY=@                                      | UTF-8      | true
                in double quotes       | DIFY_API_KEY="@"  # "mine"\\n                       | UTF-8      | true
                in single quotes       | DIFY_API_KEY='@' # it's mine\\n                     | UTF-8      | true
                with blanks            | \\n  DIFY_API_KEY  = \\t @  \\n\\n                   | UTF-8      | true
                of Windows             | # mine\\r\\nDIFY_API_KEY=@\\r\\nTIMEOUT=5\\r\\n       | UTF-8      | true
                with comments          | # key\\n\\t#DIFY_API_KEY=old\\nDIFY_API_KEY=@ # app\\n | UTF-8      | true
                with an empty setting  | DIFY_API_KEY=@\\nTIMEOUT= # 5\\n                    | UTF-8      | true
                with a key of others   | PEM="-----BEGIN\\nMII=\\n-----END"\\nDIFY_API_KEY=@ | UTF-8      | true
                with JSON of others    | hello\\nJSON='{"a": 1}'\\nDIFY_API_KEY=@\\nTOKEN: @ | UTF-8      | true
                for a shell            | # mine\\n  export  DIFY_API_KEY='@'\\nexport A=b\\n  | UTF-8      | true
                with a byte order mark | \uFEFFDIFY_API_KEY=@\\n                             | UTF-8      | true
                with both              | \uFEFFexport DIFY_API_KEY="@" # x\\r\\n              | UTF-8      | true
                in UTF-16              | DIFY_API_KEY=@\\r\\n                                | UTF-16     | false
                with an old comment    | # Schlüssel\\nDIFY_API_KEY=@\\n                     | ISO-8859-1 | false
                like YAML              | \\nDIFY_API_KEY: @\\n                               | UTF-8      | false
                without a sign         | TIMEOUT=5\\nDIFY_API_KEY @\\n                       | UTF-8      | false
                for PowerShell         | $env:DIFY_API_KEY = "@"\\n                          | UTF-8      | false
                the key alone          | # key:\\n@\\n                                       | UTF-8      | false
                in typographic quotes  | DIFY_API_KEY=“@”\\n                                 | UTF-8      | false
                two in a line          | DIFY_API_KEY=@ @\\n                                 | UTF-8      | false
                with a NUL             | DIFY_API_KEY=@\\0@\\n                               | UTF-8      | false
                the example            | \\nDIFY_API_KEY=app-your-key-here\\n                | UTF-8      | false
                empty                  | DIFY_API_KEY=\\n                                    | UTF-8      | false
                """)
        void aHandWrittenEnvFileIsReadOrRejectedWithTheVariable(String kind, String text, Charset charset,
                boolean works) throws IOException {
            rows(1);
            Files.write(file(".env"), text.translateEscapes().replace("@", KEY).getBytes(charset));
            var env = Given.env(Map.of("DIFY_API_BASE_URL", dify.url()), folder);

            for (var call : List.of(call(env, typed("run")), call(env, "check", "-i", input()),
                    call(env, typed("run", "--timeout", "5", "--max-retries", "0", "--base-url", dify.url())))) {
                call.exits(works ? 0 : 2);
                // without its name, if it is not known whether the file has the setting
                if (!works) call.reports(charset.equals(UTF_8) ? "DIFY_" : "UTF-8", path(".env"));
            }
            assertEquals(works ? 1 : 0, dify.requests.stream()
                    .filter(sent -> sent.path().equals("/v1/workflows/run")
                            && sent.headers().get("authorization").equals("Bearer " + KEY)).count());
            for (var command : List.of("run --help", "--version", "run --demo -i IN -o DEMO", "check --demo -i IN",
                    "status -o DEMO", "status -o DEMO --json"))
                call(env, command.replace("IN", input()).replace("DEMO", path("demo.jsonl")).split(" ")).exits(0);
        }

        /// `check` and `verify` have no options for runs, but say what `run` could not use.
        @Test
        void checkAndVerifyRejectInvalidSettingsForRuns() throws IOException {
            rows(1);
            call(dify.settings(), typed("run")).exits(0);

            for (var setting : List.of("TIMEOUT=abc", "TIMEOUT=0", "MAX_RETRIES=many"))
                for (var command : List.of("check -i " + input(), "check --demo -i " + input(), "verify -o "
                        + output()))
                    call(dify.settings(setting.split("=")), command.split(" ")).exits(2)
                            .reports(setting.equals("TIMEOUT=0") ? "--timeout 0" : setting);
        }

        @Test
        void aMalformedEnvFileIsIgnoredIfTheEnvironmentSetsItsVariables() throws IOException {
            rows(1);
            var env = withFile(dify.settings("TIMEOUT", "5"), "DIFY_API_KEY: " + KEY + "\nTIMEOUT " + KEY + "\n");

            call(env, typed("run")).exits(0);
        }

        @ParameterizedTest
        @CsvSource({"TIMEOUT, TIMEOUT 5", "HTTPS_PROXY, set HTTPS_PROXY=x"})
        void aMalformedLineOfAnEnvFileIsRejectedWithItsVariable(String variable, String line) throws IOException {
            rows(1);

            call(withFile(dify.settings(), line + "\n"), typed("run", "--base-url", "https://dify.test/v1")).exits(2)
                    .reports(variable + " in " + file(".env") + ": ");
        }

        @ParameterizedTest
        @ValueSource(strings = {"TIMEOUT", "MAX_RETRIES", "INITIAL_RETRY_DELAY", "DIFY_API_BASE_URL",
                "DIFY_CA_FILE"})
        void anApiKeyInAnotherVariableIsRejectedWithoutPrintingIt(String variable) throws IOException {
            rows(1);
            var env = withFile(dify.settings(variable, ""), "\n" + variable + "=" + KEY);

            call(env, typed("run")).exits(2).reports(variable + " in " + file(".env") + ": ");
            call(dify.settings(variable, KEY), typed("run")).exits(2).reports(variable + "=");
            call(dify.settings("DIFY_API_KEY", "0123456789abcdef", "TIMEOUT", "0123456789abcdef"), typed("run"))
                    .reports("TIMEOUT=***: ");

            assertEquals(0, dify.requests.size());
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                variable,         text
                DIFY_API_KEY,     ''
                DIFY_API_KEY,     '  '
                DIFY_API_KEY,     app-your-key-here
                DIFY_API_KEY,     'app-secret\nX'
                DIFY_API_KEY,     app-secreté
                DIFY_API_KEY,     app-secret x
                DIFY_WORKFLOW_ID, app-secret
                DIFY_WORKFLOW_ID, sk-secret
                DIFY_APP_ID,      app-secret
                DIFY_APP_ID,      sk-secret
                DIFY_APP_ID,      dfoa_secret
                DIFY_WORKFLOW_ID, dfoe_secret
                DIFY_WORKFLOW_ID, secret-id
                DIFY_APP_ID,      se cret
                DIFY_APP_ID,      secreté
                DIFY_APP_ID,      a_secret
                """)
        void aMalformedApiKeyOrIdIsRejectedWithoutPrintingIt(String variable, String text) throws IOException {
            rows(1);

            call(dify.settings(variable, text), typed("run")).exits(2).reports(variable).hints()
                    .omits("secret", "se cret");

            assertEquals(0, dify.requests.size());
            assertEquals(Set.of("data.csv"), names());
        }

        /// WireMock is also the proxy.
        @Test
        void anApiKeySentUnencryptedCausesAWarning() throws IOException {
            var dify = dify();
            rows(1);
            var settings = dify.settings("DIFY_API_BASE_URL", "http://dify.test/v1", "HTTP_PROXY",
                    dify.url().replace("/v1", ""));

            call(settings, typed("run")).exits(0).says("Warning: http://dify.test/v1 ");

            assertEquals(1, dify.runs());
        }

        @Test
        void anUnreachableProxyIsReportedWithoutItsCredentials() throws IOException {
            rows(1);
            var settings = dify.settings("DIFY_API_BASE_URL", "http://192.0.2.1/v1",
                    "HTTP_PROXY", "http://me:hidden@127.0.0.1:1");

            call(settings, typed("run", "--max-retries", "0")).exits(4)
                    .reports("proxy 127.0.0.1)").omits("hidden");
        }

        @ParameterizedTest
        @ValueSource(strings = {"app-id", Simulator.WORKSPACE_KEY})
        void anAppIdCausesAWarningIfTheKeyIsOfOneApp(String key) throws IOException {
            dify.server.addWorkspace(Simulator.WORKSPACE_KEY, Map.of(Simulator.FIRST_APP, dify.app));
            rows(1);

            var call = call(dify.settings("DIFY_API_KEY", key, "DIFY_APP_ID", Simulator.FIRST_APP), typed("run"))
                    .exits(0);

            assertEquals(key.startsWith("app-"), call.err().contains("DIFY_APP_ID"), call.err());
        }

        @ParameterizedTest
        @CsvSource({"DIFY_BASE_URL, DIFY_API_BASE_URL", "DIFY_APIKEY, DIFY_API_KEY", "TIMOUT, TIMEOUT", "MAX_RETRYS, MAX_RETRIES",
                "DIFY_API_URL, DIFY_API_BASE_URL"})
        void anUnknownDifyVariableOrATypingErrorInAnEnvFileCausesAWarning(String name, String meant) throws IOException {
            rows(1);
            Files.writeString(file(".env"), name + "=http://other.test/v1\nDIFY_CA_FILE=\nOTHER=1\n");

            for (var settings : List.of(dify.settings(), Map.<String, String>of())) {
                var call = call(Given.env(settings, folder), typed("run")).exits(settings.isEmpty() ? 2 : 0);

                var warnings = call.err().lines().filter(line -> line.startsWith("Warning")).toList();
                assertEquals(1, warnings.size(), call.err());
                assertTrue(warnings.getFirst().contains(name + " in " + file(".env")), call.err());
                assertTrue(warnings.getFirst().contains(meant), call.err());
            }
        }

        /// Such as a variable of Dify's own installation.
        @Test
        void anUnlikeDifyVariableCausesAWarningWithoutASuggestion() throws IOException {
            rows(1);
            Files.writeString(file(".env"), "DIFY_BIND_ADDRESS=0.0.0.0\nDIFY_PORT=80\nPORT=80\n");

            var call = call(Given.env(dify.settings(), folder), typed("run")).exits(0);

            var warnings = call.err().lines().filter(line -> line.startsWith("Warning")).toList();
            assertEquals(2, warnings.size(), call.err());
            assertTrue(warnings.stream().noneMatch(line -> line.contains("API")), call.err());
        }

        @Test
        void anInvalidVariableIsIgnoredIfAnOptionReplacesIt() throws IOException {
            rows(1);
            var settings = dify.settings("TIMEOUT", "abc");

            call(settings, typed("run", "--timeout", "5")).exits(0);
            call(settings, "run", "--help").exits(0);
        }
    }

    /// The output and the files of every session are searched for it.
    @Nested
    class TheApiKey {
        private final Simulated dify = new Simulated("--latency", "10ms");

        @ParameterizedTest
        @ValueSource(strings = {"--shard KEY", "--demo=KEY", "--ids KEY", "--id-column KEY", "--user KEY",
            "--save-files KEY/KEY", "--delimiter KEY", "--query-column KEY", "-c KEY", "--mode KEY", "--KEY", "-KEY",
            "--encoding KEY", "--rate KEY", "--max-cost KEY", "KEY", "--timeout KEY", "--base-url KEY",
            "--max-retries KEY", "--workflow-id KEY"})
        void isNotPrintedIfTypedAsAnOptionValue(String words) throws IOException {
            rows(1);
            Files.createFile(file(KEY));

            for (var key : List.of(KEY, "app-AbCdEfGhIjKlMnOpQrStUvWx", Simulator.WORKSPACE_KEY))
                call(dify.settings(), typed("run", words.replace("KEY", words.startsWith("--save") ? path(key) : key)
                        .split(" "))).omits(key);
        }

        @Test
        void isNotPrintedIfPassedAsAnIdOrAFileName() throws IOException {
            rows(1);
            dify.run().exits(0);

            call(dify.settings(), typed("retry", KEY)).exits(2);
            for (var command : List.of("run -i KEY -o KEY", "check -i KEY", "status -o KEY", "compare KEY KEY",
                    "export -i KEY -o KEY KEY", "retry -i KEY -o KEY", "KEY",
                    "shell -o KEY/KEY"))
                call(dify.settings(), command.replace("KEY", path(KEY)).split(" ")).exits(2);
        }

        @Test
        void isMaskedIfTheEnvFileIsPassedAsTheCsv() throws IOException {
            Files.writeString(file(".env"), "DIFY_API_KEY=" + KEY + "\n" + KEY + "\n");
            Files.writeString(file("other.env"), "DIFY_API_KEY=app-AbCdEfGhIjKlMnOpQrStUvWx\n");

            for (var name : List.of(".env", "other.env"))
                call(Given.env(Map.of(), folder), "run", "--demo", "-i", path(name), "-o", output())
                        .exits(2).mentions(name.equals(".env") ? "API key" : "***").omits("AbCdEf");
        }

        /// `@` is the key. The file may contain it, and nothing else.
        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', quoteCharacter = '`', textBlock = """
                file                            | named
                id,text\\nr-@,a\\n              | :2: 
                id,text\\n1,a\\n2,"b @ c"\\n    | :3: 
                id,text,"n@"\\n1,a,b\\n         | :1: 
                {"id":"1","text":"@"}\\n        | :1: 
                """)
        void isRejectedInTheInput(String text, String named) throws IOException {
            var input = Files.writeString(file(".env"), text.translateEscapes().replace("@", KEY)).toString();

            for (var option : List.of("", "--no-check", "--demo")) {
                var words = Stream.of("-i", input, option).filter(word -> !word.isEmpty()).toArray(String[]::new);
                call(dify.settings(), words(List.of("check"), words)).exits(2).mentions("API key");
                call(dify.settings(), words(List.of("run", "-o", output()), words)).exits(2).reports(named, "API key");
            }
            assertEquals(0, dify.runs());
            assertEquals(Set.of(".env"), names());
        }

        /// A masked user would not be found again, and its row would be sent twice.
        @ParameterizedTest
        @ValueSource(strings = {"--user @", "--user a-@-b", "--var lang=@", "--map text=@", "--map=@=text",
            "--save-files @", "--files @", "--id-column @", "--query-column @"})
        void isRejectedOnTheCommandLine(String option) throws IOException {
            rows(1);

            for (var command : List.of("run", "check")) {
                var words = words(List.of(option.replace("@", KEY).split(" ")), "-i", input());
                if (command.equals("run")) call(dify.settings(), words(List.of("run", "-o", output()), words))
                        .exits(2).reports("API key");
                else call(dify.settings(), words(List.of("check"), words)).exits(2);
            }
            call(dify.settings(), "run", "-i", input(), "-o", path(KEY + ".jsonl")).exits(2).reports("API key");
            assertEquals(0, dify.requests.size());
            assertEquals(Set.of("data.csv"), names());
        }

        @ParameterizedTest
        @ValueSource(strings = {"DIFY_API_BASE_URL", "DIFY_WORKFLOW_ID", "DIFY_APP_ID"})
        void isRejectedInAnotherSettingThatTheLogRecords(String variable) throws IOException {
            rows(1);
            var text = variable.endsWith("URL") ? dify.url() + "/" + KEY : "a-" + KEY;

            call(dify.settings(variable, text), typed("run")).exits(2).reports("API key");

            assertEquals(0, dify.requests.size());
            assertEquals(Set.of("data.csv"), names());
        }

        @Test
        void isMaskedInTheOutcome() throws IOException {
            var dify = dify();
            rows(1);
            dify.info(dify.refused(401, "unauthorized", "The token " + KEY + " is invalid"));

            assertTrue(dify.run("--json").exits(4).out().contains("app-***"));
            var unusable = call(dify.settings("TIMEOUT", KEY), typed("run", "--json")).exits(2);
            assertTrue(unusable.out().contains("TIMEOUT=app-***"), unusable.out());
        }

        /// JSON may write any character as its number.
        @Test
        void isMaskedInAResponseHoweverItIsWritten() throws IOException {
            var dify = dify();
            rows(1);
            var escaped = KEY.replace("-", "\\u002d");
            dify.rows(dify.answer(200, json("{'workflow_run_id':'r','task_id':'t','data':{'id':'r','status':'succeeded',"
                    + "'outputs':{'a':['x %s y'],'%s':7}}}", escaped, escaped)));

            dify.run("--mode", "blocking").exits(0);

            assertEquals(tree(json("{'a':['x app-*** y'],'app-***':7}")), results().getFirst().path("outputs"));
        }

        @ParameterizedTest
        @ValueSource(strings = {"blocking", "streaming"})
        void isNeverWrittenToAFileEvenIfTheServerReturnsIt(String mode) throws IOException {
            var dify = dify();
            rows(1);
            var end = "{'event':'workflow_finished','workflow_run_id':'KEY','task_id':'KEY','data':{'id':'KEY',"
                    + "'workflow_id':'KEY','status':'succeeded','outputs':{'KEY':'KEY'},'total_tokens':1}}";
            var price = "{'event':'node_finished','workflow_run_id':'KEY','task_id':'KEY','data':{"
                    + "'execution_metadata':{'total_price':'0.1','currency':'KEY'}}}";
            dify.rows(mode.equals("blocking") ? dify.answer(200, json(end.replace("KEY", KEY)))
                    : dify.stream(json("data: " + price.replace("KEY", KEY) + "\n\ndata: " + end.replace("KEY", KEY)
                            + "\n\n")));

            var call = dify.run("--mode", mode).exits(0);

            assertEquals("app-***", results().getFirst().path("outputs").path("app-***").asText());
            call(dify.settings(), "status", "-i", input(), "-o", output(), "--html", path("report.html")).exits(0);
            call(dify.settings(), "export", "-i", input(), "-o", output(), path("sheet.csv")).exits(0);
        }

        @ParameterizedTest
        @CsvSource(textBlock = """
                0123456789-other, a 0123456789-other b, a *** b
                0123456789-other, cut 0123456789-ot… , cut ***…
                0123456789-other, a 0123456 b, a 0123456 b
                id,               an id, an id
                workflow_run_id,  a workflow_run_id, a workflow_run_id
                '',               a text, a text
                """)
        void isMaskedOnTheTerminal(String key, String text, String masked) {
            var secret = new Secret(key);
            var written = new StringWriter();
            var writer = secret.masking(new PrintWriter(written));
            text.chars().forEach(c -> writer.write(c));
            writer.flush();

            assertEquals(masked, secret.mask(text));
            assertEquals(masked, written.toString());
        }
    }

    @Nested
    class TheCommandLine {
        private final Simulated dify = new Simulated("--latency", "10ms");

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', textBlock = """
                typed                                | named
                run -i IN -o OUT -c 0                | --concurrency 0
                run -i IN -o OUT -c                  | -c
                run -i IN -o OUT --max-tokens many   | --max-tokens
                run -i IN -o OUT --max-cost 0        | --max-cost 0
                run -i IN -o OUT --limit 0           | --limit 0
                run -i IN -o OUT --wait 1 -c 5       | -c 5
                run -i IN -o OUT --max-retries -1    | --max-retries -1
                run -i IN -o OUT --timeout 0         | --timeout 0
                run -i IN -o OUT --settle 0          | --settle 0
                run -i IN -o OUT --retry-failed-runs | --retry-failed-runs
                run -i IN -o OUT --demo=2.0          | --demo 2.0
                run -i IN -o OUT --api-key app-x     | --api-key
                run -i IN -o OUT stray               | stray
                run -i IN -o OUT --ids 99            | "99"
                run -i IN -o OUT --ids unlike-any-id | exactly as in the input
                run -i IN -o OUT --id-column nope    | "nope"
                run -o OUT                           | missing -i FILE
                run -i IN                            | missing -o JSONL
                run                                  | missing -i FILE and -o JSONL
                export -i IN -o OUT                  | missing OUT
                run -i IN -o OUT --ids               | missing --ids A,B
                retry -i IN                          | missing -o JSONL
                status                               | missing -o JSONL
                """)
        void isRejectedInOneSentenceIfInvalid(String typed, String named) throws IOException {
            rows(2);
            var words = typed.replace("IN", input()).replace("OUT", output()).split(" ");

            var call = call(dify.settings(), words).exits(2).showsNothing().reports(named);

            assertTrue(call.err().lines().count() <= 2, call.err());
            assertEquals(0, dify.runs());
            var left = names();
            left.remove("results.jsonl.lock");
            assertEquals(Set.of("data.csv"), left);
        }

        @Test
        void printsTheUsageIfEmpty() throws IOException {
            var call = call(Map.of()).exits(0).saysNothing();

            assertTrue(call.out().startsWith("Usage: difyexec "), call.out());
            for (var command : List.of("run", "retry", "status", "generate-completion"))
                assertTrue(call.out().contains("  " + command + " "), command);
        }

        @ParameterizedTest
        @ValueSource(strings = {"-V", "--version", "run --version", "status -V"})
        void printsTheVersionOnOneLineOnRequest(String typed) throws IOException {
            assertEquals("difyexec " + VERSION, call(Map.of(), typed.split(" ")).out().strip());
        }
    }

    @Nested
    class AProxyOfTheServer {
        /// Dify is behind the proxy, which forgets its login after some rows.
        @Test
        void stopsTheBatchIfItAsksForALogin() throws IOException {
            var runs = new AtomicInteger();
            try (var proxy = new ServerTest.Wire(connection -> {
                connection.request();
                boolean isRun = !connection.last.startsWith("GET");
                int run = isRun ? runs.incrementAndGet() : 0; // once, because two connections count
                if (!isRun) connection.answer("{\"name\":\"a\",\"mode\":\"workflow\"}");
                else if (run <= 5)
                    connection.answer(ServerTest.Events.blocking("{}").replace(ServerTest.Events.RUN, "run-" + run));
                else connection.say("HTTP/1.1 407 Login\r\nContent-Length: 0\r\n\r\n");
            })) {
                rows(20);
                var settings = Map.of("DIFY_API_KEY", KEY, "DIFY_API_BASE_URL", "http://dify.test/v1", "HTTP_PROXY",
                        "http://127.0.0.1:" + proxy.port());

                call(settings, typed("run", "-c", "2", "--no-check")).exits(4)
                        .says("127.0.0.1").hints("USER:PASSWORD@HOST:PORT")
                        .omits("\tat ");

                assertEquals(5, results().size());
                assertEquals("succeeded=5 pending=15", status());
            }
        }
    }

    /// The server has https, and a certificate of an authority that only `DIFY_CA_FILE` makes known.
    @Nested
    class AServerCertificate {
        private static final String THIS_HOST = "ip:127.0.0.1", OTHER_HOST = "dns:other.example";

        /// Runs several commands of Java's `keytool` in one process, which saves their starts.
        static final class Keytool {
            static void main(String... commands) throws Exception {
                var tool = Class.forName("sun.security.tools.keytool.Main").getMethod("main", String[].class);
                for (var command : commands) tool.invoke(null, (Object) command.split(" "));
            }
        }

        @TempDir static Path stores;

        @BeforeAll
        static void createCertificates() throws Exception {
            var words = Given.Tool.words("--add-exports=java.base/sun.security.tools.keytool=ALL-UNNAMED");
            words.set(words.size() - 1, Keytool.class.getName());
            for (var start : List.of("-10d", "+2d", "-1d")) words.addAll(commands(start, THIS_HOST));
            words.addAll(commands("-1d", OTHER_HOST));
            var process = new ProcessBuilder(words).redirectErrorStream(true).start();
            var said = new String(process.getInputStream().readAllBytes(), UTF_8);
            assertEquals(0, process.waitFor(), said);
        }

        /// Those that make the key store of a certificate, and the file of its authority.
        private static List<String> commands(String start, String name) {
            return Stream.of("-genkeypair -alias authority -keyalg EC -dname CN=authority -ext bc:c",
                    "-genkeypair -alias server -keyalg EC -dname CN=server -signer authority -startdate " + start
                            + " -validity 5 -ext san=" + name,
                    "-exportcert -rfc -alias authority -file " + store(start, name) + ".pem", "-delete -alias authority")
                    .map(command -> command + " -keystore " + store(start, name) + " -storepass secret").toList();
        }

        private static String store(String start, String name) {
            return stores.resolve((start + name).replace(':', '_')).toString();
        }

        /// Starts a server whose certificate is from this start, such as `-10d`, for five days, and names this host.
        /// Returns the settings for it, without the file of its authority.
        private Map<String, String> serve(String start, String name) {
            var server = new WireMockServer(options().bindAddress("127.0.0.1").httpDisabled(true).dynamicHttpsPort()
                    .keystorePath(store(start, name)).keystoreType("PKCS12").keystorePassword("secret")
                    .keyManagerPassword("secret"));
            server.start();
            open.add(server::stop);
            server.stubFor(get("/v1/info").willReturn(okJson(json("{'name':'echo','mode':'workflow'}"))));
            server.stubFor(get("/v1/parameters").willReturn(okJson(json("{'user_input_form':[]}"))));
            return settings("https://127.0.0.1:" + server.httpsPort() + "/v1");
        }

        /// A further try would come after ten minutes, and the test would run out of time.
        private static Map<String, String> settings(String url) {
            return new HashMap<>(Map.of("DIFY_API_KEY", KEY, "DIFY_API_BASE_URL", url, "INITIAL_RETRY_DELAY", "10m",
                    "MAX_RETRY_DELAY", "10m"));
        }

        /// Many servers without TLS hang up when TLS begins.
        @Test
        void isNotExpectedOfAServerThatHangsUp() throws Exception {
            rows(2);
            try (var server = new ServerSocket(0)) {
                Thread.startVirtualThread(() -> {
                    try {
                        for (int i = 0; i < 9; i++) server.accept().close();
                    } catch (IOException _) {
                        // the test is over
                    }
                });
                var settings = settings("https://127.0.0.1:" + server.getLocalPort() + "/v1");
                settings.put("MAX_RETRIES", "0");

                call(settings, "check", "-i", input()).exits(4).reports("http://");
            }
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                start, name,         known, says
                -10d,  ip:127.0.0.1, true,  not valid
                +2d,   ip:127.0.0.1, true,  not valid
                -1d,   ip:127.0.0.1, false, DIFY_CA_FILE
                -1d,   dns:other.example, true, another host
                """)
        void endsTheSessionAtOnceIfInvalidOrUntrusted(String start, String name, boolean known, String says)
                throws Exception {
            var settings = serve(start, name);
            rows(2);
            if (known) settings.put("DIFY_CA_FILE", store(start, name) + ".pem");

            for (var words : List.of(typed("run"), new String[] {"check", "-i", input()}))
                call(settings, words).exits(4).reports(says).hints().omits("trying again");
        }

        @Test
        void isAcceptedSilentlyIfTrusted() throws IOException {
            var settings = serve("-1d", THIS_HOST);
            rows(2);
            settings.put("DIFY_CA_FILE", store("-1d", THIS_HOST) + ".pem");

            call(settings, "check", "-i", input(), "--no-check").omits("certificate").exits(0);
        }

        @Test
        void httpsToAnHttpPortIsReportedWithAHint() throws IOException {
            var dify = dify();
            rows(2);

            call(settings(dify.url().replace("http:", "https:")), typed("run")).exits(4).reports("TLS")
                    .hints("http://");
        }
    }

    @Nested
    class ABatchOfAnotherApp {
        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                server,               runs, said
                demo,                 0,    --fresh
                http://dify.other/v1, 0,    http://dify.other/v1
                demo,                 1,    recorded run
                demo,                 2,    last 2 recorded runs
                """)
        void isRejectedBecauseItsRunsCannotBeLookedUp(String server, int runs, String said) throws IOException {
            rows(2);
            var log = new Given.Log().session("1.14.2").attempt("1", "u-0");
            for (int id = 1; id <= runs; id++) log.attempt("" + id, "u-" + id).run("" + id, "u-" + id, "r" + id);
            Files.writeString(file("results.jsonl.log"), log.toString().replace("http://x/v1", server));

            call(Map.of(), typed("run", "--demo")).exits(2).reports(said);

            assertFalse(Files.exists(file("results.jsonl")));
        }
    }
}
