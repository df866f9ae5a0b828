package difyexec;

import com.sun.net.httpserver.HttpExchange;
import org.junit.jupiter.api.*;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.*;

import module java.base;
import module java.net.http;

import static difyexec.DifyExec.*;
import static difyexec.Given.json;
import static difyexec.Given.tree;
import static java.nio.charset.StandardCharsets.UTF_8;
import static org.junit.jupiter.api.Assertions.*;

/// Responses to another request or for another row. The tool must not use them, least of all to send a row again.
final class ForeignResponseTest extends WholeCommand {
    private static final String OTHER = "difyexec-ffffffffffffffff-9";

    /// Plays a Dify that cuts off each run and responds to look-ups as the test says.
    private final class ScriptedLookUps {
        private final List<String> sent = new CopyOnWriteArrayList<>();
        private final boolean isChat;
        private final String version;
        private final Responses responses;
        private final URI url;

        /// Takes the path and the number of the row, from 0. `USER` is replaced by the user of the request.
        @FunctionalInterface private interface Responses {
            String to(String path, int row);
        }

        ScriptedLookUps(boolean isChat, String version, Responses responses) throws IOException {
            this.isChat = isChat;
            this.version = version;
            this.responses = responses;
            url = serve(this::answer);
        }

        private void answer(HttpExchange exchange) throws IOException {
            var path = exchange.getRequestURI().getPath().substring(3);
            var body = new String(exchange.getRequestBody().readAllBytes(), UTF_8);
            if (exchange.getRequestMethod().equals("POST")) {
                sent.add(tree(body).path("user").asText());
                return; // cut off without a response
            }
            var user = exchange.getRequestURI().getQuery() == null ? ""
                    : exchange.getRequestURI().getQuery().replaceAll(".*(user|session_id)=([^&]*).*", "$2");
            var text = switch (path) {
                case "/info" -> json("{'name':'a','mode':'%s'}", isChat ? "advanced-chat" : "workflow");
                case "/parameters" -> json("{'user_input_form':[{'text-input':{'variable':'id',"
                        + "'type':'text-input'}}]}");
                default -> responses.to(path, Math.max(0, sent.indexOf(user)));
            };
            int status = text.matches("\\d{3} (?s).*") ? Integer.parseInt(text.substring(0, 3)) : 200;
            var known = user.isEmpty() && !sent.isEmpty() ? sent.getLast() : user;
            var bytes = (status == 200 ? text : text.substring(4)).replace("USER", known).getBytes(UTF_8);
            exchange.getResponseHeaders().add("Content-Type", text.startsWith("<") ? "text/html" : "application/json");
            exchange.getResponseHeaders().add("X-Version", version);
            exchange.sendResponseHeaders(status, bytes.length == 0 ? -1 : bytes.length);
            exchange.getResponseBody().write(bytes);
        }

        Call run(int rows) throws IOException {
            rows(rows);
            var typed = typed("run", "-c", "" + rows, "--settle", "10ms", "--allow-unmapped", "--user", "nightly");
            return call(settingsFor(url, "TIMEOUT", "3"),
                    isChat ? words(List.of(typed), "--query-column", "text") : typed);
        }
    }

    @Nested
    class ALookUp {
        private static final String LOGGED = "{'id':'l','workflow_run':%s,'created_by_end_user':{'session_id':'%s'}}";
        private static final List<String> COMMON = List.of("", " ", "{}", "[]", "null", "true", "0", "'data'",
                "{'data':[", "{'data':null}", "{'data':{}}", "{'data':''}", "{'data':0}", "{'total':0}",
                "{'code':'internal_server_error','message':'x','status':500}", "{'errors':{},'message':'x'}",
                "{'data':[],'has_more':true}", "{'data':[],'has_more':null}", "{'data':[],'total':1}",
                "{'data':[],'total':'many'}", "{'data':[]} {'data':[]}", "{'data':[]}x", "<html>login</html>",
                "data: []", "204 ", "500 {'data':[]}");
        private static final List<String> LOGS = List.of("{'data':[null]}", "{'data':[{}]}", "{'data':['USER']}",
                list(LOGGED, "null", "USER"), list(LOGGED, "{'id':null}", "USER"), list(LOGGED, "{'id':''}", "USER"),
                list(LOGGED, "{'id':'r'}", OTHER), list(LOGGED, "{'id':'r'}", ""),
                "{'data':[{'workflow_run':{'id':'r'}}]}",
                "{'data':[" + LOGGED.formatted("{'id':'r'}", OTHER) + ","
                        + LOGGED.formatted("{'id':'r'}", "USER") + "]}");
        private static final List<String> CONVERSATIONS = List.of("{'data':[null]}", "{'data':[{}]}", "{'data':['c']}",
                "{'data':[{'id':null}]}", "{'data':[{'id':''}]}", "{'data':[{'id':7,'inputs':{'id':'another row'}}]}",
                "{'data':[{'id':'c','inputs':{'id':'another row'}}]}");

        private static String list(String entry, Object... values) {
            return "{'data':[" + entry.formatted(values) + "]}";
        }

        @ParameterizedTest
        @CsvSource({"false,1.9.2", "false,1.14.2", "false,1.16.0", "true,1.9.2", "true,1.14.2", "true,1.16.0"})
        void leavesItsRowUnknownIfTheResponseIsUnexpected(boolean isChat, String version) throws IOException {
            var ways = Stream.concat(COMMON.stream(), (isChat ? CONVERSATIONS : LOGS).stream())
                    .map(way -> way.replace('\'', '"')).toList();
            assertTrue(ways.size() >= 30);
            var dify = new ScriptedLookUps(isChat, version, (path, row) -> path.startsWith("/workflows/run/")
                    ? "{\"id\":\"r\",\"status\":\"succeeded\",\"outputs\":{}}" : ways.get(row));

            dify.run(ways.size()).exits(3);
            assertEquals(ways.size(), dify.sent.size(), "sent again");
            assertEquals("unknown=" + ways.size(), status());
        }

        @ParameterizedTest
        @ValueSource(strings = {"", "{}", "[]", "null", "{'data':null}", "{'data':[],'has_more':true}", "{'data':[{}]}",
                "{'data':[{'id':'m','query':'another question','answer':'Theirs.','status':'normal'}]}",
                "{'data':[{'id':'m','query':'text 1','inputs':{'id':'another row'},'answer':'Theirs.'}]}",
                "{'data':[{'id':'m','conversation_id':'d','query':'text 1','inputs':{'id':'1'},'answer':'Theirs.'}]}"})
        void ignoresTheMessageOfAnotherRow(String messages) throws IOException {
            var dify = new ScriptedLookUps(true, "1.16.0", (path, _) -> path.equals("/conversations")
                    ? json("{'data':[{'id':'c','inputs':{'id':'1'}}]}") : json(messages));

            dify.run(1).exits(3);
            assertEquals("unknown=1", status());
            assertEquals(1, dify.sent.size());
        }

        @ParameterizedTest
        @ValueSource(strings = {"",
            "{'id':'l','conversation_id':'d','query':'text 1','answer':'Theirs.','status':'normal'},"})
        void usesTheMessageOfItsOwnRowEvenAfterAForeignOne(String foreign) throws IOException {
            var dify = new ScriptedLookUps(true, "1.16.0", (path, _) -> path.equals("/conversations")
                    ? json("{'data':[{'id':'c','inputs':{'id':'1'}}],'has_more':false}")
                    : json("{'data':[" + foreign + "{'id':'m','conversation_id':'c','query':'text 1',"
                            + "'inputs':{'id':'1'},'answer':'Mine.','status':'normal'}]}"));

            assertEquals(0, dify.run(1).code());
            assertEquals("Mine.", result("1").at("/outputs/answer").asText());
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', textBlock = """
                inputs of the run                  | status
                {"id":"1","sys.user_id":"USER"}    | succeeded=1
                {"id":"1"}                         | succeeded=1
                {"id":"another row"}               | unknown=1
                {"id":"1","sys.user_id":"another"} | unknown=1
                """)
        void usesARunOnlyIfItsInputsAndUserIdFitTheRow(String inputs, String status) throws IOException {
            var dify = new ScriptedLookUps(false, "1.14.2", (path, _) -> path.equals("/workflows/logs")
                    ? json("{'data':[" + LOGGED.formatted("{'id':'r'}", "USER") + "],'has_more':false,'total':1}")
                    : json("{'id':'r','status':'succeeded','outputs':{},'inputs':%s}", inputs));

            dify.run(1);

            assertEquals(status, status());
            assertEquals(1, dify.sent.size());
            assertTrue(dify.sent.getFirst().startsWith("nightly-"), dify.sent::toString);
        }
    }

    /// A proxy sends the response to the first request for all of them.
    @Nested
    class OneResponseForSeveralRows {
        private String answer(boolean isChat) {
            return isChat ? json("{'event':'message','task_id':'t','id':'m','message_id':'m','conversation_id':'c',"
                    + "'answer':'Yes.','metadata':{'usage':{'total_tokens':3}}}")
                    : json("{'workflow_run_id':'r','task_id':'t','data':{'id':'r','status':'succeeded',"
                            + "'outputs':{'of':'1'},'total_steps':1,'elapsed_time':0.01}}");
        }

        @ParameterizedTest
        @ValueSource(booleans = {false, true})
        void isAcceptedForOneOfThem(boolean isChat) throws IOException {
            var sent = new AtomicInteger();
            var url = serve(exchange -> {
                var path = exchange.getRequestURI().getPath().substring(3);
                exchange.getRequestBody().readAllBytes();
                if (exchange.getRequestMethod().equals("POST")) sent.incrementAndGet();
                var bytes = switch (path) {
                    case "/info" -> json("{'name':'a','mode':'%s'}", isChat ? "chat" : "workflow");
                    case "/parameters" -> json("{'user_input_form':[{'text-input':{'variable':'text'}}]}");
                    case "/workflows/logs", "/conversations" -> json("{'data':[]}");
                    default -> answer(isChat);
                };
                exchange.getResponseHeaders().add("X-Version", "1.16.1");
                exchange.sendResponseHeaders(200, bytes.length());
                exchange.getResponseBody().write(bytes.getBytes(UTF_8));
            });
            rows(5);
            var settings = settingsFor(url, "TIMEOUT", "3");
            var typed = typed("run", "--limit", "3", "--settle", "10ms", "--allow-unmapped");
            if (isChat) typed = words(List.of(typed), "--query-column", "id");

            call(settings, typed).exits(3);
            assertEquals("succeeded=1 unknown=2 pending=2", status());
            assertEquals(3, sent.get());
            // the response of an earlier session does not count either
            call(settings, Stream.of(typed).filter(word -> !word.equals("--limit") && !word.equals("3"))
                    .toArray(String[]::new)).exits(3);
            assertEquals("succeeded=1 unknown=4", status());
            assertEquals(5, sent.get());
        }

        /// Look-ups get the first run, too, so each row is unknown at once.
        @Test
        void stopsTheBatchAfter20UnknownRowsAndIsReportedByVerify() throws IOException {
            var sent = new AtomicInteger();
            var url = serve(exchange -> {
                var path = exchange.getRequestURI().getPath().substring(3);
                var query = String.valueOf(exchange.getRequestURI().getQuery());
                exchange.getRequestBody().readAllBytes();
                if (exchange.getRequestMethod().equals("POST")) sent.incrementAndGet();
                var bytes = switch (path) {
                    case "/info" -> json("{'name':'a','mode':'workflow'}");
                    case "/parameters" -> json("{'user_input_form':[{'text-input':{'variable':'text'}}]}");
                    case "/workflows/logs" -> json("{'data':[{'id':'l','workflow_run':{'id':'r','status':'succeeded'},"
                            + "'created_by_end_user':{'session_id':'%s'}}],'has_more':false,'total':1}",
                            query.replaceAll(".*session_id=([^&]*).*", "$1"));
                    case "/workflows/run/r" -> json("{'id':'r','status':'succeeded','outputs':{'of':'1'}}");
                    default -> answer(false);
                };
                exchange.getResponseHeaders().add("X-Version", "1.16.1");
                exchange.sendResponseHeaders(200, bytes.length());
                exchange.getResponseBody().write(bytes.getBytes(UTF_8));
            });
            rows(60);

            call(settingsFor(url), typed("run", "-c", "2", "--allow-unmapped")).exits(4)
                    .reports("unknown", "another row has the result", "--max-failures off");
            int first = sent.get();
            assertTrue(first >= 21 && first <= 30, () -> "sent " + first);
            call(settingsFor(url), "verify", "-o", output()).exits(3).shows("two results for one run");
            // the rows that are unknown already do not stop the next session, but 20 further ones do
            call(settingsFor(url), typed("run", "-c", "2", "--allow-unmapped")).exits(4);
            assertTrue(sent.get() >= first + 20 && sent.get() < 60, () -> "sent " + sent.get());
        }
    }

    /// A gateway that answers the request of a run itself, with a status for each row.
    @Nested
    class AnAnswerOfAGateway {
        private final Map<String, AtomicInteger> sent = new ConcurrentHashMap<>();
        private URI dify;
        private boolean passesOn = true; // whether Dify gets the request before the gateway answers
        private String version = "";

        /// Answers each row's first request with the status in its text, and passes everything else on.
        private Map<String, String> gateway(String page) throws IOException {
            var simulated = new Simulated("--latency", "20ms");
            dify = simulated.server.baseUrl();
            var url = serve(exchange -> {
                var body = exchange.getRequestBody().readAllBytes();
                var id = tree(new String(body, UTF_8)).at("/inputs/id").asText();
                boolean isFirst = !id.isEmpty()
                        && sent.computeIfAbsent(id, _ -> new AtomicInteger()).incrementAndGet() == 1;
                var passed = isFirst && !passesOn ? null : pass(exchange, body);
                if (isFirst) refuse(exchange, Integer.parseInt(id.replaceAll("\\D", "")), page);
                else {
                    passed.headers().map().forEach((name, values) -> {
                        if (!name.matches("(?i)connection|content-length|transfer-encoding|date"))
                            exchange.getResponseHeaders().put(name, values);
                    });
                    exchange.sendResponseHeaders(passed.statusCode(), passed.body().length);
                    exchange.getResponseBody().write(passed.body());
                }
            });
            return settingsFor(url, "TIMEOUT", "20");
        }

        private HttpResponse<byte[]> pass(HttpExchange exchange, byte[] body) throws IOException {
            var target = dify.resolve(exchange.getRequestURI());
            var request = HttpRequest.newBuilder(target).method(exchange.getRequestMethod(), body.length == 0
                    ? HttpRequest.BodyPublishers.noBody() : HttpRequest.BodyPublishers.ofByteArray(body));
            for (var name : List.of("Authorization", "Content-Type"))
                Optional.ofNullable(exchange.getRequestHeaders().getFirst(name))
                        .ifPresent(value -> request.header(name, value));
            try (var http = HttpClient.newHttpClient()) {
                return http.send(request.build(), HttpResponse.BodyHandlers.ofByteArray());
            } catch (InterruptedException problem) {
                throw new IOException(problem);
            }
        }

        private void refuse(HttpExchange exchange, int status, String page) throws IOException {
            if (status == 429 && passesOn) LockSupport.parkNanos(Response.AT_ONCE.plusMillis(100).toNanos());
            if (!version.isEmpty()) exchange.getResponseHeaders().add("X-Version", version);
            if (status / 100 == 3) exchange.getResponseHeaders().add("Location", "https://login.example/");
            boolean hasBody = status != 304;
            exchange.sendResponseHeaders(status, hasBody ? page.length() : -1);
            if (hasBody) exchange.getResponseBody().write(page.getBytes(UTF_8));
        }

        @ParameterizedTest
        @CsvSource(delimiter = '|', useHeadersInDisplayName = true, textBlock = """
                mode      | version | page
                blocking  |         | <html>a page</html>
                streaming |         | <html>a page</html>
                blocking  | 1.16.1  | <html>a page</html>
                streaming | 1.16.1  | {"code":"invalid_param","message":"id in input form mu
                blocking  | 1.16.1  | {"code":"invalid_param","message":"id in input form mu
                blocking  |         | {"message":"Too many requests.","status":400}
                streaming |         | {"code":400,"message":"no such route"}
                """)
        void isADroppedRequestWhateverItsStatus(String mode, String version, String page) throws IOException {
            this.version = version == null ? "" : version;
            var settings = gateway(page);
            csv(words(List.of("id,text"), IntStream.of(300, 302, 304, 400, 401, 403, 404, 405, 407, 409, 410, 413, 415,
                    417, 418, 421, 422, 426, 429, 451, 499, 500, 502, 503, 504, 520)
                    .mapToObj(status -> "r" + status + ",text").toArray(String[]::new)));

            call(settings, typed("run", "--mode", mode, "-c", "8")).exits(0);
            assertEquals("succeeded=26", status());
            sent.forEach((id, count) -> assertEquals(1, count.get(), id));
        }

        /// Nothing was started, so the answer counts after the look-up.
        @ParameterizedTest
        @CsvSource(delimiter = '|', useHeadersInDisplayName = true, textBlock = """
                status | exit | sent | looked up | rows        | fact
                302    | 4    | 1    | true      | pending=1   | login.example
                401    | 4    | 1    | true      | pending=1   | 401
                404    | 4    | 1    | true      | pending=1   | 404
                403    | 3    | 1    | true      | failed=1    | 403
                409    | 3    | 1    | true      | failed=1    | 409
                413    | 3    | 1    | true      | failed=1    | 413
                502    | 0    | 2    | true      | succeeded=1 | succeeded
                429    | 0    | 2    | false     | succeeded=1 | succeeded
                """)
        void countsIfNoRunWasStarted(int status, int exit, int sent, boolean isLookedUp, String rows, String fact)
                throws IOException {
            passesOn = false;
            var settings = gateway("<html>a page</html>");
            csv("id,text", "r" + status + ",text");

            var call = call(settings, typed("run", "--mode", "blocking", "--settle", "10ms")).exits(exit)
                    .mentions(fact);
            assertEquals(sent, this.sent.get("r" + status).get());
            assertEquals(isLookedUp, !events("look").isEmpty(), call::toString);
            assertEquals(rows, status());
        }
    }

    /// A response or a stream reports a failure, and Dify's record says something else.
    @Nested
    class AReportedFailure {
        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                mode,      record,    sent, rows
                blocking,  succeeded, 1,    succeeded=1
                streaming, succeeded, 1,    succeeded=1
                blocking,  failed,    2,    failed=1
                streaming, failed,    2,    failed=1
                blocking,  none,      2,    failed=1
                streaming, none,      2,    failed=1
                """)
        void isLookedUpBeforeTheNextSessionSendsTheRowAgain(String mode, String record, int sent, String rows)
                throws IOException {
            var runs = new AtomicInteger();
            var url = serve(exchange -> {
                var path = exchange.getRequestURI().getPath().substring(3);
                exchange.getRequestBody().readAllBytes();
                boolean isRun = exchange.getRequestMethod().equals("POST");
                int run = isRun ? runs.incrementAndGet() : 1;
                var ended = "'id':'r%d','status':'%s','error':'no city','outputs':{'of':'1'},'total_steps':2";
                int status = path.startsWith("/workflows/run/") && record.equals("none") ? 404 : 200;
                var text = switch (path) {
                    case "/info" -> json("{'name':'a','mode':'workflow'}");
                    case "/parameters" -> json("{'user_input_form':[{'text-input':{'variable':'text'}}]}");
                    case "/workflows/logs" -> json("{'data':[],'has_more':false,'total':0}");
                    case "/workflows/run" -> (mode.equals("blocking") ? "" : "data: ") + json("{'event':"
                            + "'workflow_finished','workflow_run_id':'r%d','task_id':'t','data':{" + ended + "}}", run,
                            run, "failed").replace(mode.equals("blocking") ? "\"event\":\"workflow_finished\"," : "-", "")
                            + "\n\n";
                    default -> status == 404 ? json("{'code':'not_found','message':'None.','status':404}")
                            : json("{" + ended + "}", 1, record);
                };
                exchange.getResponseHeaders().add("Content-Type", isRun && mode.equals("streaming")
                        ? "text/event-stream" : "application/json");
                exchange.getResponseHeaders().add("X-Version", "1.16.1");
                exchange.sendResponseHeaders(status, text.length());
                exchange.getResponseBody().write(text.getBytes(UTF_8));
            });
            rows(1);
            var typed = typed("run", "--mode", mode, "--allow-unmapped");

            call(settingsFor(url), typed).exits(3);
            assertEquals(List.of(), events("look"));
            assertEquals("failed=1", status());

            call(settingsFor(url), typed);
            assertEquals(sent, runs.get());
            assertEquals(rows, status());
            assertEquals("r1", events("look").getFirst().path("run").asText());
        }
    }

    /// Something between Dify and this machine has damaged the text of an answer.
    @Nested
    class ADamagedText {
        @ParameterizedTest
        @CsvSource(delimiter = '|', useHeadersInDisplayName = true, textBlock = """
                mode      | sent | kept
                blocking  | ff   | \uFFFD
                blocking  | c3   | \uFFFD
                blocking  | 00   | \uFFFD
                blocking  | 1b   | \uFFFD
                blocking  | 0a   | '\n'
                blocking  | 09   | '\t'
                streaming | ff   | \uFFFD
                streaming | c3   | \uFFFD
                streaming | 00   | \uFFFD
                streaming | 1b   | \uFFFD
                streaming | 09   | '\t'
                """)
        void isAcceptedAndReported(String mode, String sent, String kept) throws IOException {
            var requests = new AtomicInteger();
            var run = "'id':'r','status':'succeeded','outputs':{'of':'a?b'},'total_steps':1,'elapsed_time':0.01";
            var url = serve(exchange -> {
                var path = exchange.getRequestURI().getPath().substring(3);
                exchange.getRequestBody().readAllBytes();
                boolean isRun = exchange.getRequestMethod().equals("POST");
                if (isRun) requests.incrementAndGet();
                var text = switch (path) {
                    case "/info" -> json("{'name':'a','mode':'workflow'}");
                    case "/parameters" -> json("{'user_input_form':[{'text-input':{'variable':'text'}}]}");
                    case "/workflows/logs" -> json("{'data':[]}");
                    case "/workflows/run" -> mode.equals("blocking")
                            ? json("{'workflow_run_id':'r','task_id':'t','data':{" + run + "}}")
                            : "data: " + json("{'event':'workflow_finished','workflow_run_id':'r','task_id':'t',"
                                    + "'data':{" + run + "}}") + "\n\n";
                    default -> json("{" + run + "}");
                };
                var bytes = new ByteArrayOutputStream();
                for (byte each : text.getBytes(UTF_8)) // only the answer has a question mark
                    bytes.write(each == '?' ? HexFormat.of().parseHex(sent)[0] : each);
                if (isRun && mode.equals("streaming")) exchange.getResponseHeaders().add("Content-Type",
                        "text/event-stream");
                exchange.getResponseHeaders().add("X-Version", "1.16.1");
                exchange.sendResponseHeaders(200, bytes.size());
                bytes.writeTo(exchange.getResponseBody());
            });
            rows(1);

            var call = call(settingsFor(url), typed("run", "--mode", mode, "--allow-unmapped")).exits(0);
            assertEquals(1, requests.get());
            assertEquals("a" + kept + "b", result("1").at("/outputs/of").asText());
            assertEquals(kept.equals("\uFFFD"), call.err().contains("U+FFFD"), call::toString);
            call(settingsFor(url), "verify", "-o", output()).omits("  open ");
        }
    }

    /// A proxy that sends the response to one request twice, on a connection that it keeps open.
    @Nested
    class ADuplicateResponse {
        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                chunked, at once
                false,   true
                false,   false
                true,    true
                true,    false
                """)
        void isNotUsedForAnotherRow(boolean chunked, boolean atOnce) throws IOException {
            var runs = new AtomicInteger();
            try (var wire = new ServerTest.Wire(connection -> {
                while (connection.request()) {
                    if (!connection.last.startsWith("POST")) {
                        connection.answer(json(connection.last.contains("/info") ? "{'name':'a','mode':'workflow'}"
                                : "{'user_input_form':[{'paragraph':{'variable':'id'}}]}"));
                        continue;
                    }
                    var id = connection.last.replaceAll("(?s).*\"id\":\"(\\d+)\".*", "$1");
                    var body = json("{'workflow_run_id':'r%1$s','task_id':'t','data':{'id':'r%1$s',"
                            + "'status':'succeeded','outputs':{'of':'%1$s'},'total_steps':1,'elapsed_time':0.01}}", id);
                    var answer = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Version: 1.16.0\r\n" + (chunked
                            ? "Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n".formatted(body.length(), body)
                            : "Content-Length: %d\r\n\r\n%s".formatted(body.length(), body));
                    boolean twice = runs.incrementAndGet() == 2;
                    connection.say(twice && atOnce ? answer + answer : answer);
                    if (twice && !atOnce) connection.say(answer);
                }
            })) {
                rows(12);

                call(settingsFor(wire.url()), typed("run", "-c", "1", "--allow-unmapped")).exits(0);
                for (var result : results())
                    assertEquals(result.path("id").asText(), result.at("/outputs/of").asText());
                assertEquals(12, results().size());
            }
        }
    }
}
