package difyexec;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import com.github.tomakehurst.wiremock.client.ResponseDefinitionBuilder;
import org.junit.jupiter.api.*;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.*;

import module java.base;
import module java.net.http;

import static difyexec.DifyExec.*;
import static com.github.tomakehurst.wiremock.client.WireMock.*;
import static difyexec.Given.json;
import static org.junit.jupiter.api.Assertions.*;

/// `pull`: runs of a simulated app become the rows of a batch.
final class PullTest extends WholeCommand {
    private static final String FORM = """
            [{'text-input':{'variable':'topic','label':'Topic','required':true}},
             {'paragraph':{'variable':'note','label':'Note'}},
             {'number':{'variable':'count','label':'Count'}},
             {'checkbox':{'variable':'strict','label':'Strict'}},
             {'json_object':{'variable':'meta','label':'Meta'}},
             {'file':{'variable':'doc','label':'Doc','allowed_file_types':['document'],
                 'allowed_file_upload_methods':['local_file','remote_url']}},
             {'file-list':{'variable':'docs','label':'Docs','max_length':3,'allowed_file_types':['document','image'],
                 'allowed_file_upload_methods':['local_file','remote_url']}}]""";
    private static final String OURS = "difyexec-0123456789abcdef-";

    private Simulated dify;

    private Map<String, String> start(String form, String... options) throws Exception {
        Files.writeString(file("form.json"), json(form));
        dify = new Simulated(words(List.of("--dify", "1.16.1", "--latency", "0", "--form", path("form.json")),
                options));
        return dify.settings();
    }

    private Call pull(Map<String, String> settings, String... more) throws Exception {
        return call(settings, words(List.of("pull", "-o", path("rows.jsonl")), more));
    }

    /// Runs the app as anybody may, and returns the run's id and outputs with its inputs.
    private JsonNode run(String user, JsonNode inputs) throws Exception {
        var body = Given.JSON.createObjectNode().put("user", user).put("response_mode", "blocking");
        body.set("inputs", inputs);
        return post("/workflows/run", "application/json", body.toString()).path("data");
    }

    private JsonNode post(String path, String type, String body) throws Exception {
        var request = HttpRequest.newBuilder(URI.create(dify.server.baseUrl() + path))
                .header("Authorization", "Bearer " + KEY)
                .header("Content-Type", type).POST(HttpRequest.BodyPublishers.ofString(body)).build();
        try (var http = HttpClient.newHttpClient()) {
            return tree(http.send(request, HttpResponse.BodyHandlers.ofString()).body());
        }
    }

    private ObjectNode inputs(int number) throws Exception {
        var inputs = (ObjectNode) tree(json("{'topic':'topic %s, \\'quoted\\' 編\\n'}", number));
        inputs.put("note", number % 2 == 0 ? "007" : "");
        if (number % 2 == 0) inputs.put("strict", number % 4 == 0);
        if (number % 3 == 0) inputs.put("count", number * 1_000_000_000_000L);
        if (number % 5 == 0) inputs.set("meta", tree(json("{'n':{'a':[1,true,null]},'number':%s}", number)));
        if (number % 7 == 0) inputs.set("doc", remote("http://x.example/a.pdf?n=" + number));
        if (number % 11 == 0) inputs.putArray("docs").add(remote("http://x.example/1.txt"))
                .add(remote("http://x.example/2.txt?a=1;b=2"));
        return inputs;
    }

    private static ObjectNode remote(String url) {
        return Given.JSON.createObjectNode().put("type", "document").put("transfer_method", "remote_url")
                .put("url", url);
    }

    private ObjectNode uploaded(String user) throws Exception {
        var part = "--b\r\nContent-Disposition: form-data; name=\"";
        var id = post("/files/upload", "multipart/form-data; boundary=b", part + "user\"\r\n\r\n" + user + "\r\n"
                + part + "file\"; filename=\"a.txt\"\r\nContent-Type: text/plain\r\n\r\nhello\r\n--b--\r\n").path("id");
        return Given.JSON.createObjectNode().put("type", "document").put("transfer_method", "local_file")
                .put("upload_file_id", id.asText());
    }

    /// Returns the inputs as a row of JSON lines has them, with the URL of each file.
    private static JsonNode asRow(String id, ObjectNode inputs) {
        var row = Given.JSON.createObjectNode().put("id", id);
        inputs.properties().forEach(each -> row.set(each.getKey(), each.getValue()));
        if (row.has("doc")) row.set("doc", row.path("doc").path("url"));
        if (row.has("docs")) row.set("docs", Given.JSON.valueToTree(row.path("docs").findValuesAsText("url")));
        return row;
    }

    /// 300 runs, 20 of them ours, 5 with an uploaded file. Returns the eligible ones as rows, newest first, and the
    /// outputs by id.
    private List<JsonNode> fill(Map<String, JsonNode> outputs) throws Exception {
        var rows = new ArrayList<JsonNode>();
        for (int number = 1; number <= 300; number++) {
            var user = number % 15 == 0 ? OURS + number : "person-" + number % 9;
            var inputs = inputs(number);
            boolean isUpload = number % 60 == 1;
            if (isUpload) inputs.putArray("docs").add(remote("http://x.example/1.txt")).add(uploaded(user));
            var ran = run(user, inputs);
            assertEquals("succeeded", ran.path("status").asText(), ran.toString());
            outputs.put(ran.path("id").asText(), ran.path("outputs"));
            if (!isUpload && number % 15 != 0) rows.addFirst(asRow(ran.path("id").asText(), inputs));
        }
        return rows;
    }

    @Nested
    class APull {
        /// The first four records are sent when all four were requested. The server is busy once.
        @Test
        void requestsTheRecordsOfSeveralRunsAtATimeAndKeepsTheirOrder() throws Exception {
            var asked = new CountDownLatch(4);
            var refused = new AtomicBoolean();
            try (var wire = new ServerTest.Wire(connection -> {
                connection.request();
                var id = connection.last.replaceAll("(?s)GET /v1/workflows/run/(\\d+) .*", "$1");
                if (connection.last.startsWith("GET /v1/info") || connection.last.startsWith("GET /v1/parameters"))
                    connection.answer("{\"mode\":\"workflow\",\"user_input_form\":[]}");
                else if (connection.last.contains("/workflows/logs")) connection.answer(json("{'has_more':false,'data':["
                        + IntStream.rangeClosed(1, 20).mapToObj("{'workflow_run':{'id':'%s'}}"::formatted)
                                .collect(Collectors.joining(",")) + "]}"));
                else {
                    asked.countDown();
                    await(asked);
                    if (id.equals("2") && refused.compareAndSet(false, true))
                        connection.say("HTTP/1.1 503 Busy\r\nContent-Length: 2\r\n\r\nno");
                    else connection.answer(json("{'id':'%1$s','status':'succeeded','inputs':'{}','outputs':{'n':%1$s}}",
                            id));
                }
            })) {
                pull(settingsFor(wire.url()), "--last", "7").exits(0);

                assertEquals(List.of("1", "2", "3", "4", "5", "6", "7"),
                        read("rows.jsonl").stream().map(row -> row.path("id").asText()).toList());
            }
        }

        @Test
        void writesTheNewestRunsThatCanBeRepeatedAndTheirOutputs() throws Exception {
            var settings = start(FORM);
            dify.app.limitPages(20);
            var outputs = new HashMap<String, JsonNode>();
            var eligible = fill(outputs);

            pull(settings, "--last", "100").exits(0).says("personal data", "1 run with");

            var rows = read("rows.jsonl");
            assertEquals(eligible.subList(0, 100), rows);
            var baseline = read("rows.baseline.jsonl");
            assertEquals(rows.stream().map(row -> row.path("id")).toList(),
                    baseline.stream().map(line -> line.path("id")).toList());
            for (var line : baseline) assertEquals(outputs.get(line.path("id").asText()), line.path("outputs"));
            assertEquals(Set.of("form.json", "rows.jsonl", "rows.baseline.jsonl"), names());

            var before = contents();
            pull(settings, "--last", "100").exits(2);
            pull(settings, "--last", "100", "--force").exits(0);
            assertEquals(before, contents());

            pull(settings, "--last", "400", "--force").says("5 runs with");
            assertEquals(eligible, read("rows.jsonl"));
        }

        @Test
        void writesRowsThatProduceTheSameOutputsWhenRun() throws Exception {
            var settings = start(FORM);
            for (int number = 1; number <= 24; number++) run("person", inputs(number));
            pull(settings).exits(0);

            call(settings, "run", "-i", path("rows.jsonl"), "-o", output(), "--progress", "off").exits(0);
            call(settings, "compare", "--json", path("rows.baseline.jsonl"), output()).exits(0)
                    .shows(json("'same':24,"), json("'different':0,"), json("'inputs_differ':0,"));
        }

        @Test
        void selectsRunsByUserDateKeywordAndStatus() throws Exception {
            var settings = start(FORM);
            for (var topic : List.of("apples", "pears", "apples", "apples [fail!]", "plums"))
                run("person", tree(json("{'topic':'%s'}", topic)));
            run(OURS + 1, tree(json("{'topic':'ours'}")));
            run("person-0123456789abcdef-x", tree(json("{'topic':'hers'}")));

            assertEquals("hers plums apples pears apples", topics(settings));
            assertEquals("hers ours", topics(settings, "--own", "--last", "2"));
            assertEquals("hers plums apples pears", topics(settings, "--dedupe"));
            assertEquals("apples apples", topics(settings, "--keyword", "APPLES"));
            assertEquals("hers plums apples pears apples", topics(settings, "--since", "1d", "--until", "0d"));
            assertEquals("hers plums apples pears apples",
                    topics(settings, "--since", "" + LocalDate.now().minusDays(1)));
            assertEquals("none 3", topics(settings, "--until", "2d"));
            assertEquals("none 3", topics(settings, "--status", "stopped"));
            assertEquals("apples [fail!]", topics(settings, "--status", "failed"));
            assertFalse(Files.exists(file("rows.baseline.jsonl")), "a failed run has no outputs");
        }

        /// Returns the topics of the rows, or why there are none.
        private String topics(Map<String, String> settings, String... more) throws Exception {
            Files.deleteIfExists(file("rows.jsonl"));
            var call = pull(settings, words(List.of("--force"), more));
            if (call.code() != 0) return "none " + call.code() + (call.hint().isEmpty() ? " without a hint" : "");
            return String.join(" ", Given.Scene.texts("topic", read("rows.jsonl")));
        }

        @Test
        void keepsOnlyInputsOfTheCurrentWorkflowForm() throws Exception {
            var settings = start("""
                    [{'text-input':{'variable':'id','label':'Id'}},{'text-input':{'variable':'x','label':'X'}},
                     {'text-input':{'variable':'old','label':'Old'}}]""");
            var ran = run("person", tree(json("{'id':'7','x':'a','old':'b'}")));
            dify.app.publish(Recorded.json(json("[{'text-input':{'variable':'id','label':'Id'}},"
                    + "{'text-input':{'variable':'x','label':'run_id'}}]")), Optional.empty());

            var next = pull(settings).says("\"old\"").next();

            assertEquals(List.of(tree(json("{'run_run_id':'%s','id':'7','x':'a'}", ran.path("id").asText()))),
                    read("rows.jsonl"));
            assertTrue(next.contains("--id-column run_run_id"), next);
        }

        @Test
        void suggestsCommandsThatRunAndCompareTheRows() throws Exception {
            var settings = start(FORM);
            run("person", inputs(1));

            var base = dify.server.baseUrl().toString();
            var call = pull(settings, "--base-url", base, "--last", "5");

            assertEquals("run -i " + path("rows.jsonl") + " -o " + path("new.jsonl") + " --base-url " + base,
                    call.next());
            call.says(" compare " + path("rows.baseline.jsonl") + " " + path("new.jsonl") + "\n");
        }

        @Test
        void rejectsChatflowsAndOverwritesNoFileOfABatch() throws Exception {
            pull(start("[]", "--app", "chatflow")).exits(2).reports("chatflow");

            var settings = start(FORM);
            run("person", inputs(1));
            for (var batch : List.of("rows.jsonl", "rows.baseline.jsonl")) {
                Files.writeString(file(batch + ".log"), "");
                pull(settings, "--force").exits(2).reports(file(batch) + " ").hints();
                Files.delete(file(batch + ".log"));
            }
            for (var day : List.of("yesterday", "+999999999-12-31", "-0001-01-01", "99999999d", "9999-12-31"))
                for (var option : List.of("--since", "--until")) pull(settings, option, day).exits(2).reports(day);
            assertEquals(Set.of("form.json"), names());
        }
    }

    /// `--force` replaces what an earlier `pull` wrote, and nothing else.
    @Nested
    class PulledFiles {
        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', quoteCharacter = '`', textBlock = """
                name                | content
                rows.jsonl          | {"id":"1","topic":"mine"}
                rows.jsonl          | {"id": "6d0e1f5a-7c1b-4d1e-9a55-1f0c2d3e4f50", "topic": "written by Python"}
                rows.jsonl          | id,topic
                rows.jsonl          | ``
                rows.baseline.jsonl | {"id":"1","status":"success","inputs":{},"outputs":{},"workflow_run_id":"2"}
                rows.baseline.jsonl | some text
                """)
        void replaceNoFileOfSomebodyElse(String name, String content) throws Exception {
            var settings = start(FORM);
            run("person", inputs(1));
            Files.writeString(file(name), content + "\n");

            for (var more : List.of("--last 5", "--force", "--force --status failed")) {
                var call = pull(settings, more.split(" ")).exits(2).reports(path(name)).hints();
                assertFalse(call.hint().orElseThrow().contains("--force"), call.err());
            }

            assertEquals(content + "\n", content(name));
            assertEquals(Set.of("form.json", name), names());
        }

        @Test
        void areReplacedByALaterPullWithForce() throws Exception {
            var settings = start(FORM);
            run("person", inputs(1));
            pull(settings).exits(0);
            run("person", tree(json("{'topic':'a [fail!]'}")));

            pull(settings, "--status", "failed").exits(2).hints("--force");
            pull(settings, "--status", "failed", "--force").exits(0);

            assertEquals(Set.of("form.json", "rows.jsonl"), names());
            pull(settings, "--force").exits(0);
        }
    }

    /// Runs as WireMock lists them.
    @Nested
    class PulledRuns {
        private final Dify server = new Dify("1.9.2", "blocking");

        private ResponseDefinitionBuilder page(boolean hasMore, int... runs) {
            return server.answer(200, json("{'has_more':%s,'data':[%s]}", hasMore, IntStream.of(runs).mapToObj(run ->
                    json("{'workflow_run':{'id':'run-%s'},'created_by_end_user':null}", run))
                    .collect(Collectors.joining(","))));
        }

        private void list(int number, ResponseDefinitionBuilder page) {
            server.server.stubFor(get(urlPathEqualTo("/v1/workflows/logs")).withQueryParam("page", equalTo("" + number))
                    .willReturn(page));
        }

        /// As Dify 1.9 does it: inputs and outputs are text.
        private void record(int run, String inputs, String outputs) throws Exception {
            server.server.stubFor(get(urlEqualTo("/v1/workflows/run/run-" + run)).willReturn(server.answer(200,
                    Given.JSON.createObjectNode().put("id", "run-" + run).put("status", "succeeded")
                            .put("inputs", inputs).put("outputs", outputs).put("finished_at", 1795786585)
                            .put("elapsed_time", 0.5).toString())));
        }

        private String ids() throws Exception {
            return String.join(" ", Given.Scene.texts("id", read("rows.jsonl")));
        }

        @Test
        void areWrittenOnceEachEvenIfThePagesOfTheListShift() throws Exception {
            list(1, page(true, 1, 2));
            list(2, page(true, 2, 3));
            list(3, page(false, 3, 4));
            for (int run = 1; run <= 4; run++) record(run, "{\"text\": \"t\"}", "{}");

            pull(server.settings()).exits(0);

            assertEquals("run-1 run-2 run-3 run-4", ids());
        }

        /// A proxy that ignores the query returns the first page again and again, and each claims that there is more.
        @ParameterizedTest
        @ValueSource(strings = {"person", OURS + 1})
        @Timeout(30)
        void endWithAPageThatHasNothingNew(String user) throws Exception {
            server.server.stubFor(get(urlPathEqualTo("/v1/workflows/logs")).willReturn(server.answer(200, json("""
                    {'has_more':true,'data':[{'workflow_run':{'id':'run-1'},
                     'created_by_end_user':{'session_id':'%s'}},{'workflow_run':{'id':'run-2'}}]}""", user))));
            for (int run = 1; run <= 2; run++) record(run, "{\"text\": \"t\"}", "{}");

            pull(server.settings()).exits(0);

            assertEquals(user.equals("person") ? "run-1 run-2" : "run-2", ids());
            server.server.verify(2, getRequestedFor(urlPathEqualTo("/v1/workflows/logs")));
        }

        @Test
        void keepAllDigitsOfTheirNumbers() throws Exception {
            list(1, page(false, 1));
            record(1, "{\"text\": 12345678901234567890.50, \"sys.user_id\": \"me\", \"userinput.files\": []}",
                    "{\"big\": 1.10, \"n\": 1e3}");

            pull(server.settings()).exits(0);

            assertEquals("{\"id\":\"run-1\",\"text\":12345678901234567890.50}\n", content("rows.jsonl"));
            var baseline = content("rows.baseline.jsonl");
            assertTrue(baseline.contains("\"outputs\":{\"big\":1.10,\"n\":1000}"), baseline);
            assertTrue(baseline.contains("\"inputs\":{\"id\":\"run-1\",\"text\":\"12345678901234567890.50\"}"),
                    baseline);
        }

        @Test
        void areSkippedIfTheirRecordIsUnreadable() throws Exception {
            list(1, page(false, 1, 2, 3, 4));
            record(1, "{\"text\": \"cut o", "{}");
            record(2, "{\"text\": \"t\"}", "{\"answer\": \"cut o");
            record(3, "{\"text\": \"t\"}", "{}");

            var call = pull(server.settings());

            assertEquals("run-3", ids(), call.err());
            call.says("3 runs");
        }

        /// The parser refuses such JSON, because it could overflow the stack.
        @Test
        void areSkippedIfTheirRecordIsNestedTooDeeply() throws Exception {
            list(1, page(false, 1, 2));
            server.server.stubFor(get(urlEqualTo("/v1/workflows/run/run-1")).willReturn(server.answer(200,
                    "{\"id\":\"run-1\",\"outputs\":" + "[".repeat(2_000) + "]".repeat(2_000) + "}")));
            record(2, "{\"text\": \"t\"}", "{}");

            pull(server.settings()).exits(0).says("1 run ");

            assertEquals("run-2", ids());
        }

        /// A server or proxy may ignore the filter of the list.
        @ParameterizedTest
        @CsvSource({"succeeded, run-1", "failed, run-2", "stopped, none"})
        void areSkippedIfTheirRecordHasAnotherStatus(String status, String rows) throws Exception {
            list(1, page(false, 1, 2));
            record(1, "{\"text\": \"t\"}", "{}");
            server.server.stubFor(get(urlEqualTo("/v1/workflows/run/run-2")).willReturn(server.answer(200, json(
                    "{'id':'run-2','status':'failed','error':'no','inputs':'{\\'text\\': \\'t\\'}','outputs':'{}'}"))));

            var call = pull(server.settings(), "--status", status);

            assertEquals(rows, Files.exists(file("rows.jsonl")) ? ids() : "none", call.err());
            call.exits(rows.equals("none") ? 3 : 0).says(rows.equals("none") ? "2 runs " : "1 run ");
            assertEquals(status.equals("succeeded"), Files.exists(file("rows.baseline.jsonl")));
        }

        @Test
        void areRequestedAgainAfterTheRetryAfterTime() throws Exception {
            record(1, "{\"text\": \"t\"}", "{}");
            server.inTurn(() -> get(urlPathEqualTo("/v1/workflows/logs")),
                    server.answer(429, "").withHeader("Retry-After", "1"), page(false, 1));
            long start = System.nanoTime();

            pull(server.settings()).exits(0);

            assertTrue(System.nanoTime() - start >= 1_000_000_000L, "Retry-After is waited for");
            assertEquals("run-1", ids());
        }

        @ParameterizedTest
        @ValueSource(ints = {500, 401, 200})
        void leaveNoFilesIfTheirListIsIncomplete(int status) throws Exception {
            list(1, page(true, 1));
            list(2, server.answer(status, "{}"));
            record(1, "{\"text\": \"t\"}", "{}");

            pull(server.settings()).exits(Exit.STOPPED.code);

            assertEquals(Set.of(), names());
        }

        @Test
        void areRequestedWithTheFiltersOfTheOptions() throws Exception {
            record(1, "{\"text\": \"t\"}", "{}");
            list(1, page(false, 1));

            pull(server.settings(), "--since", "2026-11-01", "--until", "2026-11-02", "--keyword", "a b&c=ü");

            var zone = ZoneId.systemDefault();
            server.server.verify(getRequestedFor(urlPathEqualTo("/v1/workflows/logs"))
                    .withQueryParam("status", equalTo("succeeded")).withQueryParam("keyword", equalTo("a b&c=ü"))
                    .withQueryParam("created_at__after",
                            equalTo(LocalDate.of(2026, 11, 1).atStartOfDay(zone).toInstant().toString()))
                    .withQueryParam("created_at__before",
                            equalTo(LocalDate.of(2026, 11, 3).atStartOfDay(zone).toInstant().toString())));
        }
    }
}
