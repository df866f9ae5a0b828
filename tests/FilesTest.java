package difyexec;

import com.fasterxml.jackson.databind.JsonNode;
import com.github.tomakehurst.wiremock.client.ResponseDefinitionBuilder;
import com.github.tomakehurst.wiremock.http.Fault;
import org.junit.jupiter.api.*;
import org.junit.jupiter.api.condition.*;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.*;

import module java.base;

import static difyexec.DifyExec.*;
import static com.github.tomakehurst.wiremock.client.WireMock.*;
import static difyexec.Given.json;
import static difyexec.Given.tree;
import static org.junit.jupiter.api.Assertions.*;

/// Whole commands: inputs, files of rows, files of earlier versions and foreign files.
final class FilesTest extends WholeCommand {
    private static final String FILES = """
            [{'file': {'variable': 'doc', 'allowed_file_types': ['document']}},
             {'file-list': {'variable': 'docs', 'allowed_file_types': ['document'], 'max_length': 3}}]""";

    private List<String> files(String id) throws IOException {
        return result(id).path("files").valueStream()
                .map(path -> file("out").relativize(Path.of(path.asText())).toString()).toList();
    }

    /// All files in the folder with their contents, including temporary ones.
    private String saved() throws IOException {
        try (var all = Files.list(file("out"))) {
            var text = new TreeMap<String, String>();
            for (var each : all.toList()) text.put(each.getFileName().toString(), Files.readString(each));
            return text.toString();
        }
    }

    @Nested
    class InputAndOutputFiles {
        private final Simulated dify = new Simulated("--latency", "10ms");

        private void assertRejected(Call call, String... facts) {
            call.exits(2).showsNothing().says(facts).omits("Exception");
            assertEquals(0, dify.runs());
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', textBlock = """
                csv                              | place  | what
                ''                               | csv:   | empty
                text,key/a,1                     | csv:1: | --id-column
                id,text/1,a/2,"open/3,c          | csv:3: | quote
                """)
        void anInvalidCsvIsRejectedWithItsLineBeforeAnyRequest(String csv, String line, String what)
                throws IOException {
            Files.writeString(file("data.csv"), csv.replace('/', '\n').replace("'", "") + (csv.isEmpty() ? "" : "\n"));

            assertRejected(dify.run(), line, what);

            assertEquals(Set.of("data.csv"), names());
        }

        /// Each request rewrites the file, as an editor does that is still saving it.
        @ParameterizedTest
        @ValueSource(strings = {"id,text\n1,a\n2", "id,text\n1,a\n"})
        void anInputThatIsBeingSavedIsReported(String half) throws IOException {
            Files.writeString(file("data.csv"), half);
            var url = serve(exchange -> {
                Files.writeString(file("data.csv"), "id,text\n1,a\n2,b\n");
                var body = (exchange.getRequestURI().getPath().endsWith("info") ? json("{'name':'a','mode':'workflow'}")
                        : json("{'user_input_form':[{'paragraph':{'variable':'text'}}]}")).getBytes();
                exchange.getResponseHeaders().add("X-Version", "1.16.0");
                exchange.sendResponseHeaders(200, body.length);
                exchange.getResponseBody().write(body);
            });

            call(settingsFor(url), "check", "-i", input()).exits(2).mentions("changed").omits("No problems");
            if (half.endsWith("2")) {
                Files.writeString(file("data.csv"), half);
                call(settingsFor(url), typed("run")).exits(2).reports("data.csv:3: ");
            }
        }

        /// The names of other people's files may act on a terminal.
        @ParameterizedTest
        @ValueSource(strings = {"run -i @ -o r.jsonl", "run -i data.csv -o @", "check -i @", "status -o @",
                "export -i data.csv -o r.jsonl @", "compare @ @", "shell -i @",
                "run -i data.csv -o r.jsonl --env-file @", "run -i data.csv -o r.jsonl --save-files @"})
        void aFileNameWithControlCharactersIsRejected(String line) throws IOException {
            rows(1);
            var name = folder + "/a\u001b[31m\u0007b.csv"; // Windows has no such path

            call(dify.settings(), Stream.of(line.split(" ")).map(word -> word.equals("@") ? name : word)
                    .map(word -> word.equals("data.csv") ? input() : word).toArray(String[]::new)).exits(2)
                    .isSafeOnATerminal();
            assertEquals(Set.of("data.csv"), names());
        }

        @Test
        @DisabledOnOs(OS.WINDOWS) // has no endless file
        void anEndlessInputIsCopiedOnlyUntilTheDiskIsNearlyFull() throws IOException {
            var free = new ArrayDeque<>(List.of(5L << 30, (1L << 30) - 1));
            try (var input = new Original(Path.of("/dev/zero"), free::remove)) {
                var block = new byte[8 << 20];
                var problem = assertThrows(Unusable.class, () -> input.copy(out -> {
                    while (true) out.write(block);
                }));

                assertEquals(Exit.UNUSABLE, problem.exit);
                assertTrue(problem.text().contains("/dev/zero") && problem.text().contains("1 GiB"), problem.text());
                assertTrue(free.isEmpty());
            }
        }

        @Test
        void anOutputThatIsTheInputFileIsRejected() throws IOException {
            rows(1);
            var before = content("data.csv");

            var link = link(file("link"), file("data.csv"));
            var twin = Files.createLink(file("twin"), file("data.csv"));
            for (var output : List.of(input(), folder + "/./data.csv", link.toString(), twin.toString()))
                assertRejected(call(dify.settings(), "run", "-i", input(), "-o", output));

            assertEquals(before, content("data.csv"));
            assertEquals(Set.of("data.csv", "link", "twin"), names());
        }

        @ParameterizedTest
        @ValueSource(strings = {".retry", ".log", ".lock"})
        void anInputThatIsAFileOfTheBatchIsRejected(String suffix) throws IOException {
            Files.writeString(file("results.jsonl" + suffix), "id,text\n1,a\n");

            assertRejected(call(dify.settings(), "run", "-i", output() + suffix, "-o", output()), output() + suffix);

            assertEquals("id,text\n1,a\n", content("results.jsonl" + suffix));
        }

        @Test
        void anOutputInAMissingFolderIsRejected() throws IOException {
            rows(1);

            assertRejected(call(dify.settings(), "run", "-i", input(), "-o", path("no/results.jsonl")), path("no"));

            assertEquals(Set.of("data.csv"), names());
        }

        @ParameterizedTest
        @CsvSource({"UTF-8, ','", "UTF-8, ;", "UTF-16LE, '\t'", "UTF-16BE, ','"})
        void cellsAreSentUnchangedForEachEncodingAndDelimiter(String charset, String delimiter) throws IOException {
            dify.form("[{'paragraph':{'variable':'id'}},{'paragraph':{'variable':'zip'}},"
                    + "{'paragraph':{'variable':'text'}}]");
            var text = "id,zip,text\n1,007,\"a, \"\"b\"\"\r\nc; あ😀 \"\n2,, x ".replace(",", delimiter)
                    .replace("a" + delimiter, "a,");
            Files.write(file("data.csv"), ("\uFEFF" + text).getBytes(charset));

            dify.run("--mode", "blocking").exits(0);

            var sent = dify.bodies("/v1/workflows/run").stream()
                    .map(body -> tree(body.replaceFirst("\"user\":\"[^\"]*\"", "\"user\":\"u\""))).toList();
            for (var inputs : List.of("{\"id\":\"1\",\"zip\":\"007\",\"text\":\"a, \\\"b\\\"\\r\\nc; あ😀 \"}",
                    "{\"id\":\"2\",\"zip\":\"\",\"text\":\" x \"}"))
                assertEquals(1, Collections.frequency(sent,
                        tree(json("{'inputs':%s,'user':'u','response_mode':'blocking'}", inputs))));
            assertEquals("a, \"b\"\r\nc; あ😀 ", result("1").path("inputs").path("text").asText());
        }
    }

    @Nested
    class TheInputCheck {
        private final Simulated dify = new Simulated("--latency", "10ms");

        TheInputCheck() throws IOException {
            dify.form("""
                    [{'text-input': {'variable': 'text', 'label': 'Text', 'required': true, 'max_length': 5}},
                     {'select': {'variable': 'lang', 'label': 'Language', 'required': true, 'options': ['en', 'ja']}},
                     {'number': {'variable': 'count', 'label': 'Count', 'required': false}}]""");
        }

        @Test
        void reportsAllInvalidCellsBeforeTheFirstRequest() throws IOException {
            csv("id,text,lang,count", "1,fine,en,1", "2,too long,ja,2", "3,fine,fr,many");

            var call = dify.run().exits(2).reports("3 problems");
            var check = dify.check().exits(2).saysNothing();

            for (var facts : List.of("line 3, id 2.*text.*too long.*8.*5", "line 4, id 3.*lang.*\"fr\".*\"en\", \"ja\"",
                    "line 4, id 3.*count.*many"))
                for (var said : List.of(call.err(), check.out()))
                    assertTrue(said.lines().anyMatch(line -> line.matches(".*" + facts + ".*")), said);
            assertEquals(0, dify.runs());
            assertEquals(Set.of("data.csv"), names());
        }

        @Test
        void reportsLineColumnAndValueOfEachInvalidCellAsJson() throws IOException {
            dify.form("""
                    [{'text-input': {'variable': 'short', 'required': false, 'max_length': 3}},
                     {'number': {'variable': 'num', 'required': true}},
                     {'select': {'variable': 'pick', 'required': false, 'options': ['red', 'blue']}},
                     {'checkbox': {'variable': 'yes', 'required': false}},
                     {'json_object': {'variable': 'meta', 'required': false}},
                     {'file': {'variable': 'doc', 'required': false, 'allowed_file_types': ['document']}},
                     {'file-list': {'variable': 'docs', 'allowed_file_types': ['image'], 'max_length': 2}}]""");
            csv("id,short,num,pick,yes,meta,doc,docs",
                    "1,😀😀😀😀,1,,,,,", "2,,,,,,,", "3,,NaN,,,,,", "4,,\"1,000\",,,,,", "5,,1e5,,,,,", "6,,1,Rad,,,,",
                    "7,,1,,maybe,,,", "8,,1,,,[1],,", "9,,1,,,,@none.pdf,", "10,,1,,,,https://h/a.mp3,",
                    "11,,1,,,,,https://h/1.png;https://h/2.png;https://h/3.png", "12,,1,,,,,ftp://h/1.png");

            var call = dify.check("--json").exits(2);

            var problems = tree(call.out()).path("problems");
            assertEquals("""
                    2 1 short 😀😀😀😀
                    3 2 num
                    4 3 num NaN
                    5 4 num 1,000
                    6 5 num 1e5
                    7 6 pick Rad
                    8 7 yes maybe
                    9 8 meta [1]
                    10 9 doc @none.pdf
                    11 10 doc https://h/a.mp3
                    12 11 docs https://h/1.png;https://h/2.png;https://h/3.png
                    13 12 docs ftp://h/1.png
                    """, problems.valueStream().map(problem -> Stream.of("line", "id", "column", "value")
                    .map(name -> problem.path(name).asText()).collect(Collectors.joining(" ")).strip() + "\n")
                    .collect(Collectors.joining()));
            assertTrue(problems.valueStream().noneMatch(problem -> problem.path("message").asText().isEmpty()));
            assertTrue(dify.requests.stream().noneMatch(request -> request.method().equals("POST")));
        }

        @Test
        void printsRequestsToStandardErrorIfTheReportIsJson() throws IOException {
            csv("id,text,lang,count", "1,fine,en,1", "2,fine,ja,");
            var request = json("{'text':'fine','lang':'en','count':1}");

            dify.check("--show", "1").exits(0).omits("\"ja\"")
                    .shows(request, "No problems", "curl -X POST " + dify.server.baseUrl() + "/workflows/run ");
            var json = dify.check("--json", "--show", "1").exits(0).says(request);

            assertEquals(2, tree(json.out()).path("rows").asInt(), json.out());
            assertEquals(0, dify.runs());
        }

        @Test
        void printsCellsWithoutControlAndFormatCharacters() throws Exception {
            dify.form("[{'paragraph': {'variable': 'text'}}, {'json_object': {'variable': 'meta'}}]");
            csv("id,text,meta", "1,it's \u009b31m \u202e \u2028 \ue007f \udb40\udc41,\"{\r\n\"\"a\u007f\"\": 1}\"");

            var call = dify.check("--show", "1").exits(0).shows("it's  31m");

            assertEquals(List.of(), call.out().lines().flatMapToInt(String::codePoints).filter(c ->
                    Character.isISOControl(c) || Character.getType(c) == Character.FORMAT).boxed().toList());
        }

        @ParameterizedTest
        @CsvSource(delimiter = '|', quoteCharacter = '`', textBlock = """
                ,   | id;text | 1;fine,it is | ';'
                tab | id;text | 1;fine       | ';'
                ;   | id,text | 1,fine       | ,
                """)
        void proposesTheDelimiterOfTheHeaderIfAnotherIsTyped(String typed, String header, String row, String delimiter)
                throws IOException {
            csv(header, row);
            dify.form("[{'paragraph': {'variable': 'text'}}]");

            var next = dify.check("--delimiter", typed).exits(2).mentions("data.csv:1: ").next();
            var option = "--delimiter " + Text.shell(delimiter.replace("'", ""));
            assertTrue(next.endsWith(" " + option), next);
            dify.run("--delimiter", typed).exits(2).hints(option);
            dify.check("--delimiter", delimiter.replace("'", "")).exits(0);
        }

        /// The header looks like a title above a table, but a title has no column `id`.
        @Test
        void takesALongRowForAFaultRatherThanForTheColumnNames() throws IOException {
            csv("id,text", "a,hi", "b,ho,extra, more, and more");
            dify.form("[{'paragraph': {'variable': 'text'}}]");

            var refused = dify.check().exits(2).mentions("line 3: 5 cells");
            assertFalse(refused.toString().contains("--header-row"), refused::toString);
        }

        /// The first line is a title, or begins with the delimiter, and has another one.
        @Test
        void takesADelimiterThatOnlyTheTableHas() throws IOException {
            csv("Report, January", "id|text", "1|fine");
            dify.form("[{'paragraph': {'variable': 'text'}}]");
            dify.check("--delimiter", "|", "--header-row", "2").exits(0);

            csv("\ttext, long", "0\tfine", "1\tbye");
            dify.check("--delimiter", "tab", "--id-column", "column 1", "--map", "text, long=text").exits(0);
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', textBlock = """
                options             | named              | hint
                --files none        | --files none:      |
                --save-files FILE   | --save-files       | folder
                --env-file none     | --env-file none:   | path
                --quote x           | none               | --help
                --skip-rows 9       | --skip-rows        |
                --sheet x           | --sheet x:         | leave out --sheet
                --rows /x           | --rows /x:         | leave out --rows
                -i none.csv         | none.csv:          | current folder
                -i FOLDER           | folder             | file
                -o none/a.jsonl     | a.jsonl:           | create
                """)
        void rejectsAnUnusableFileOrCountWithARemedy(String options, String named, String hint) throws IOException {
            csv("id,text,lang", "1,fine,en");
            var typed = options.replace("FILE", input()).replace("FOLDER", folder.toString()).split(" ");
            var words = new ArrayList<>(List.of("run"));
            if (!typed[0].equals("-i")) words.addAll(List.of("-i", input()));
            if (!typed[0].equals("-o")) words.addAll(List.of("-o", output()));

            var call = call(dify.settings(), words(words, typed)).exits(2).reports(named);
            if (hint != null) call.hints(hint);
        }

        @Test
        void warnsOfAQuestionColumnThatAWorkflowDoesNotTake() throws IOException {
            csv("id,text,lang", "1,fine,en");

            dify.check("--query-column", "text").exits(0).says("Warning: --query-column");
            dify.run("--query-column", "text").exits(0).says("Warning: --query-column");
        }

        @Test
        void proposesTheEncodingOfTheFileIfAWiderOneIsTyped() throws IOException {
            csv("id,text,lang", "1,fine,en");

            for (var typed : List.of("UTF-16", "utf-16le", "UTF-32")) {
                var next = dify.check("--encoding", typed).exits(2).mentions("data.csv:1: ").next();
                assertTrue(next.endsWith("--encoding UTF-8"), next);
            }
            dify.check("--encoding", "UTF-8").exits(0);
        }

        @ParameterizedTest
        @CsvSource({"--var, lang, VALUE", "--map, text=, VARIABLE"})
        void rejectsAnOptionThatWouldDropAnEarlierChoiceIfThereIsNone(String option, String value, String missing)
                throws IOException {
            csv("id,text", "1,fine");

            dify.check(option, value).exits(2).reports(option, value.replace("=", " ")).hints(missing);
            dify.run(option, value).exits(2).reports(option);
            dify.run("--var", "lang=en").exits(0);
            dify.run("--var", "lang", "--keep-changed").exits(0);
        }

        @Test
        void printsTheSameNotesAboutTheCsvAsARun() throws IOException {
            csv("sep=;", "id;text;;", "1;fine;;", ";;;", "2;[fail];;", ";;;", "", "3;fine;;");

            var notes = call(Map.of(), "check", "--demo", "-i", input()).exits(0).notes();

            assertEquals(2, notes.size());
            assertTrue(notes.get(0).contains("sep=;") && notes.get(1).contains("column 3, column 4"), notes.toString());
            assertEquals(notes, call(Map.of(), typed("run", "--demo")).exits(3).notes());
        }

        @Test
        void printsTheUrlThatARunWithAWorkflowIdRequests() throws Exception {
            csv("id,text,lang,count", "1,fine,en,1");
            var settings = dify.settings("DIFY_WORKFLOW_ID", " " + dify.app.published() + " ");

            var run = "/workflows/" + dify.app.published() + "/run";

            call(settings, "check", "-i", input(), "--show", "1")
                    .shows("curl -X POST " + dify.server.baseUrl() + run + " ");
            call(settings, typed("run")).exits(0);

            assertEquals(1, dify.bodies("/v1" + run).size());
        }

        @Test
        void stopsTheRunIfTheAppIsNotPublished() throws IOException {
            rows(2);
            var app = new Simulated(new SimulatedDify(Simulator.of().behaviour(),
                    Simulator.Setup.PLAIN.with(Simulator.Setup.Kind.UNPUBLISHED)));

            app.run().exits(4).reports("publish");

            assertEquals(List.of(), app.bodies("/run"));
        }
    }

    @Nested
    class TheInputCheckWithScriptedResponses {
        private final Dify dify = dify();

        private void form(ResponseDefinitionBuilder answer) {
            dify.server.stubFor(get(urlEqualTo("/v1/parameters")).willReturn(answer));
        }

        @ParameterizedTest
        @ValueSource(ints = {200, 403, 404, 502})
        void sendsNothingIfTheWorkflowFormCannotBeRead(int status) throws IOException {
            rows(2);
            form(aResponse().withStatus(status).withBody("<html>no</html>"));

            dify.run("--max-retries", "1").exits(4).reports("form").hints("--no-check");

            assertEquals(0, dify.runs());
            dify.run("--no-check").exits(0);
        }

        /// Such JSON is a gateway's.
        @ParameterizedTest
        @ValueSource(strings = {"{}", "[]", "{\"message\":\"ok\"}", "{\"user_input_form\":null}"})
        void sendsNothingIfTheResponseHasNoForm(String body) throws IOException {
            rows(2);
            form(aResponse().withStatus(200).withHeader("Content-Type", "application/json").withBody(body));

            dify.run().exits(4).reports("form").hints("--no-check");

            assertEquals(0, dify.runs());
        }

        @ParameterizedTest
        @ValueSource(ints = {429, 500, 502, 503})
        void requestsTheWorkflowFormAgainIfTheFailureMayPass(int status) throws IOException {
            dify.form("[{'number': {'variable': 'text'}}]");
            rows(3);
            dify.server.stubFor(get(urlEqualTo("/v1/parameters")).inScenario("busy").whenScenarioStateIs("Started")
                    .willReturn(aResponse().withStatus(status)).willSetStateTo("free"));

            dify.run().exits(2).says("3 problems").omits("out of reach");

            dify.server.verify(2, getRequestedFor(urlEqualTo("/v1/parameters")));
        }

        @ParameterizedTest
        @ValueSource(ints = {429, 503})
        void stopsTheRunIfTheServerStaysTooBusyToReturnTheForm(int status) throws IOException {
            rows(2);
            form(aResponse().withStatus(status));

            dify.run("--max-retries", "1").exits(4).reports("HTTP " + status);

            assertEquals(0, dify.runs());
        }
    }

    @Nested
    class FilesOfARow {
        private final Simulated dify = new Simulated("--latency", "10ms");

        FilesOfARow() throws IOException {
            dify.form(FILES);
            dify.app.outputFiles();
        }

        @Test
        void areUploadedOnlyOnceUnderTheUserIdOfTheRun() throws IOException {
            Files.writeString(file("a.txt"), "größe");
            csv("id,doc,docs", "1,@a.txt,@a.txt;https://h/b.pdf");

            dify.run().exits(0);

            var upload = dify.bodies("/v1/files/upload");
            assertEquals(1, upload.size());
            var run = tree(dify.bodies("/v1/workflows/run").getFirst());
            var id = run.at("/inputs/doc/upload_file_id").asText(); // the app takes only an id that it gave
            assertTrue(upload.getFirst().contains("name=\"user\"\r\n\r\n" + run.path("user").asText() + "\r\n"),
                    upload::toString);
            assertTrue(upload.getFirst().contains("filename=\"a.txt\"\r\nContent-Type: text/plain\r\n\r\ngröße\r\n"),
                    upload::toString);
            assertEquals(json("{'type':'document','transfer_method':'local_file','upload_file_id':'%s'}", id),
                    run.path("inputs").path("doc").toString());
            assertEquals(json("[{'type':'document','transfer_method':'local_file','upload_file_id':'%s'},"
                    + "{'type':'document','transfer_method':'remote_url','url':'https://h/b.pdf'}]", id),
                    run.path("inputs").path("docs").toString());
            assertEquals("@a.txt", result("1").path("inputs").path("doc").asText());
        }

        /// The CSV is in `batch`; the folder above has a file that must not be sent.
        private String[] outside(String command, String... more) throws IOException {
            Files.writeString(file("id_rsa.txt"), "secret");
            Files.createDirectories(file("batch"));
            Files.writeString(file("batch/data.csv"), "id,doc,docs\n1,@../id_rsa.txt,\n");
            return words(List.of(command, "-i", path("batch/data.csv")), more);
        }

        @Test
        void areNotUploadedFromOutsideTheFolderOfTheCsv() throws IOException {
            var checked = call(dify.settings(), outside("check")).exits(2);
            var ran = call(dify.settings(), outside("run", "-o", output(), "--progress", "off")).exits(2);

            var problem = "(?s).*line 2, id 1[^\n]*doc[^\n]*" + Pattern.quote(file("id_rsa.txt").toRealPath().toString())
                    + "[^\n]*--files DIR.*";
            assertTrue(checked.out().matches(problem), checked.out());
            assertTrue(ran.err().matches(problem), ran.err());
            assertTrue(dify.requests.stream().noneMatch(request -> request.method().equals("POST")));
        }

        @Test
        void areUploadedFromTheFolderOfTheFilesOption() throws IOException {
            call(dify.settings(), outside("run", "-o", output(), "--progress", "off", "--files", folder.toString()))
                    .exits(0);

            assertTrue(dify.bodies("/v1/files/upload").getFirst().contains("secret"));
        }

        @Test
        void areRejectedIfTheFolderOfTheFilesOptionIsMissing() throws IOException {
            call(dify.settings(), outside("check", "--files", path("none"))).exits(2)
                    .reports(path("none"));

            assertEquals(0, dify.runs());
        }

        /// While `a.txt` is uploaded, a link to a file that must not be sent replaces `b.txt`.
        @Test
        @DisabledOnOs(OS.WINDOWS) // links need a privilege there
        void causeTheirRowToFailIfALinkReplacesThemAfterTheCheck() throws IOException {
            outside("check");
            Files.writeString(file("batch/a.txt"), "a");
            var b = Files.writeString(file("batch/b.txt"), "b");
            Files.writeString(file("batch/data.csv"), "id,doc,docs\n1,@a.txt,@b.txt\n2,@b.txt,\n3,@a.txt,\n");
            dify.app.listeners.add(request -> {
                if (request.path().equals("/v1/files/upload")) assertDoesNotThrow(() -> Files.deleteIfExists(b));
                if (!Files.exists(b))
                    assertDoesNotThrow(() -> Files.createSymbolicLink(b, Path.of("../id_rsa.txt")));
            });

            call(dify.settings(), "run", "-i", path("batch/data.csv"), "-o", output(), "-c", "1", "--progress", "off")
                    .exits(3).says("b.txt: ", "--files DIR");

            assertEquals(List.of("3"), ids());
            assertEquals("1\n2\n", content("results.jsonl.retry"));
            assertEquals(1, dify.runs());
            assertFalse(dify.bodies("/v1/files/upload").toString().contains("secret"));
        }

        @Test
        void causeOnlyOneWarningIfTheyAreInOutputsButNotSaved() throws IOException {
            csv("id,doc,docs", "1,,", "2,,");

            var call = dify.run().exits(0);

            assertEquals(2, call.err().split("--save-files DIR", -1).length, call.err());
            assertTrue(result("1").path("files").isMissingNode());
        }

        /// A stream would show the run's id long before.
        @Test
        void areFetchedOnlyAfterTheirRunIsInTheLog() throws IOException {
            csv("id,doc,docs", "1,,");
            var runs = new CopyOnWriteArrayList<List<JsonNode>>();
            dify.app.listeners.add(request -> {
                if (request.path().endsWith("/file-preview")) runs.add(assertDoesNotThrow(() -> events("run")));
            });

            dify.run("--save-files", path("out"), "--mode", "blocking").exits(0);

            assertEquals(List.of(result("1").path("workflow_run_id").asText()),
                    Given.Scene.texts("run", runs.getFirst()));
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                base,                  link,                                  allowed
                http://10.1.2.3/v1,    http://127.0.0.1:9/f,                  false
                http://10.1.2.3/v1,    http://localhost:9/f,                  false
                http://10.1.2.3/v1,    http://[::1]:9/f,                      false
                http://10.1.2.3/v1,    http://0.0.0.0:9/f,                    false
                http://10.1.2.3/v1,    http://169.254.169.254/latest,         false
                http://10.1.2.3/v1,    http://[::ffff:127.0.0.1]/f,           false
                http://10.1.2.3/v1,    ftp://10.1.2.3/f,                      false
                http://10.1.2.3/v1,    file:///etc/hostname,                  false
                http://10.1.2.3/v1,    http://10.1.2.4:65536/f,               false
                http://10.1.2.3/v1,    /f,                                    true
                http://dify_api/v1,    /f,                                    true
                http://dify_api/v1,    http://127.0.0.1:9/f,                  false
                http://dify_api/v1,    https://10.1.2.4:65536/f,              false
                http://10.1.2.3/v1,    https://10.1.2.4/f,                    true
                http://127.0.0.1/v1,   http://127.0.0.1:9/f,                  true
                http://127.0.0.1/v1,   http://169.254.169.254/latest,         false
                http://169.254.1.1/v1, http://169.254.169.254/f,              true
                """)
        void areNotFetchedFromLocalHostsUnlessDifyIsLocalToo(String base, String link, boolean allowed) {
            try (var client = ServerTest.client(URI.create(base), Duration.ofMillis(1))) {
                var saver = new Sender.FileSaver(client, file("out"));

                if (allowed) assertDoesNotThrow(() -> saver.parseUrl(link));
                else assertThrows(IOException.class, () -> saver.parseUrl(link));
            }
        }

        @Test
        void areSavedUnderANewNameInsteadOfOverwritingAFile() throws IOException {
            csv("id,doc,docs", "1,,");
            Files.createDirectories(file("out"));
            Files.writeString(file("out/1-files-1.txt"), "mine");

            dify.run("--save-files", path("out")).exits(0);

            assertEquals(List.of("1-files-1~2.txt"), files("1"));
            dify.command("retry", "1", "--again", "--save-files", path("out")).exits(0);

            assertEquals(List.of("1-files-1~2.txt"), files("1"), "the same bytes are kept as one file");
            assertEquals("{1-files-1.txt=mine, 1-files-1~2.txt=" + SimulatedFiles.CONTENT + "}", saved());
        }
    }

    @Nested
    class FilesOfARowWithScriptedResponses {
        private final Dify dify = dify();

        FilesOfARowWithScriptedResponses() {
            dify.form(FILES);
            uploads(uploaded());
        }

        private void uploads(ResponseDefinitionBuilder... answers) {
            dify.inTurn(() -> post(urlEqualTo("/v1/files/upload")), answers);
        }

        private ResponseDefinitionBuilder uploaded() {
            return dify.answer(201, json("{'id':'up-1','name':'a.txt','size':5}"));
        }

        @Test
        void areUploadedAgainAfterErrorsBeforeTheRunStarts() throws IOException {
            Files.writeString(file("a.txt"), "x");
            csv("id,doc,docs", "1,@a.txt,");
            uploads(dify.answer(503, "busy").withHeader("Retry-After", "1"),
                    aResponse().withFault(Fault.CONNECTION_RESET_BY_PEER), uploaded());

            dify.run().exits(0).says("Retry-After");

            dify.server.verify(3, postRequestedFor(urlEqualTo("/v1/files/upload")));
            assertEquals(1, dify.runs());
        }

        @ParameterizedTest
        @ValueSource(ints = {408, 425, 429, 500, 502, 503, 504})
        void areUploadedAgainWithoutALookUpAfterATransientError(int status) throws IOException {
            Files.writeString(file("a.txt"), "x");
            csv("id,doc,docs", "1,@a.txt,");
            uploads(dify.answer(status, "later"), uploaded());

            dify.run().exits(0);

            dify.server.verify(2, postRequestedFor(urlEqualTo("/v1/files/upload")));
            assertEquals(List.of(), events("look"));
        }

        @Test
        void causeTheirRowToFailWithoutARunIfDifyRejectsThem() throws IOException {
            Files.writeString(file("a.txt"), "x");
            csv("id,doc,docs", "1,@a.txt,", "2,,");
            uploads(dify.refused(415, "unsupported_file_type", "File type not allowed."));

            dify.run().exits(3).says("File type not allowed.");

            assertEquals("1\n", content("results.jsonl.retry"));
            assertEquals(1, dify.runs());
        }

        /// Each run has this file as its output, with `'` instead of `"`.
        private void gives(String file) {
            dify.rows(dify.answer(200, json("""
                    {'workflow_run_id':'{{request.id}}','task_id':'t','data':{'id':'{{request.id}}','workflow_id':'w',
                     'status':'succeeded','outputs':{'n':1,'made':[{'dify_model_identity':'__dify__file__','extension':'.txt',%s}]},
                     'error':null,'elapsed_time':1,'total_tokens':1,'total_steps':1}}""", json(file))));
        }

        private void givesAFile() throws IOException {
            givesAFile("1", 4);
        }

        /// A row whose run has a file of that size behind a signed link.
        private void givesAFile(String id, int size) throws IOException {
            csv("id,doc,docs", id + ",,");
            gives("'size':" + size + ",'url':'" + dify.url() + "/f?sign=x'");
            fileIs(aResponse().withBody("made"));
        }

        private void fileIs(ResponseDefinitionBuilder... answers) {
            dify.inTurn(() -> get(urlEqualTo("/v1/f?sign=x")), answers);
        }

        private Call save(String... more) throws IOException {
            return dify.run(words(List.of("--save-files", path("out")), more));
        }

        private int fetches() {
            return dify.server.findAll(getRequestedFor(urlEqualTo("/v1/f?sign=x"))).size();
        }

        private JsonNode missing() throws IOException {
            return results().getLast().path("missing");
        }

        @Test
        void areSavedUnderASafeNameAndFetchedWithoutTheApiKey() throws IOException {
            givesAFile("../1", 4);

            save().exits(0);

            var saved = Sender.FileSaver.fileName("../1", "made", 1, ".txt");
            assertEquals("made", content("out/" + saved));
            assertEquals(List.of(saved), files("../1"));
            assertEquals(0, dify.server.findAll(getRequestedFor(urlEqualTo("/v1/f?sign=x")).withHeader("Authorization",
                    matching(".*"))).size(), "the link is signed: the key is not for it");
        }

        @ParameterizedTest
        @ValueSource(strings = {"null", "\"\"", "\" \"", "\"ht tp://x\"", "\"file:///etc/hostname\""})
        void countAsMissingIfTheyHaveNoValidUrl(String link) throws IOException {
            csv("id,doc,docs", "1,,");
            gives("'url':" + link);
            dify.server.stubFor(get(urlPathMatching("/v1/?")).willReturn(aResponse().withBody("welcome")));

            save().exits(3);

            assertEquals("{}", saved());
            assertEquals(1, missing().size());
        }

        @ParameterizedTest
        @CsvSource({"403, 1", "503, 2"})
        void areMissingFromASuccessfulRowIfTheyCannotBeFetched(int status, int tries) throws IOException {
            givesAFile();
            fileIs(aResponse().withStatus(status), aResponse().withStatus(status), aResponse().withBody("made"));

            save().exits(3).says("--again ID");

            assertEquals(List.of("1"), ids());
            assertEquals("", content("results.jsonl.retry"));
            assertEquals("{}", saved());
            assertEquals("[\"1-made-1.txt: HTTP " + status + "\"]", missing().toString());
            assertEquals(tries, fetches());
        }

        @Test
        void areReportedAsMissingByStatusUntilTheyAreFetched() throws IOException {
            givesAFile();
            fileIs(aResponse().withStatus(403), aResponse().withBody("made"));
            save();

            call(Map.of(), "status", "-o", output()).exits(3).shows("1 file of 1 row");
            call(Map.of(), "status", "--json", "-o", output()).exits(3)
                    .shows(json("'missing_files':{'count':1,'rows':1,'ids':['1']}"));
            dify.command("retry", "1", "--again", "--save-files", path("out"));
            call(Map.of(), "status", "--json", "-o", output()).exits(0)
                    .shows(json("'missing_files':{'count':0,'rows':0,'ids':[]}"));
            assertEquals(List.of("1-made-1.txt"), files("1"));
        }

        @Test
        void areFetchedAgainIfTheyAreDamagedOrIncomplete() throws IOException {
            givesAFile();
            for (var first : List.of(aResponse().withBody("mad"), aResponse().withStatus(503),
                    aResponse().withBody("made more"), aResponse().withFault(Fault.MALFORMED_RESPONSE_CHUNK))) {
                fileIs(first, aResponse().withBody("made"));

                save("--fresh").exits(0);

                assertEquals("{1-made-1.txt=made}", saved());
            }
            assertEquals(8, fetches());
        }

        @Test
        void areNotFetchedIfTheyAreLargerThanOneGibibyte() throws IOException {
            givesAFile("1", -1);
            fileIs(aResponse().withBody("made").withHeader("Content-Length", "1073741825"));

            save().exits(3);

            assertEquals("{}", saved());
            assertEquals(1, fetches());
        }

        @Test
        void areFetchedAgainIfShorterThanTheirContentLength() throws IOException {
            givesAFile("1", -1);
            fileIs(aResponse().withBody("made").withHeader("Content-Length", "5"), aResponse().withBody("made"));

            save().exits(0);

            assertEquals("{1-made-1.txt=made}", saved());
            assertEquals(2, fetches());
        }
    }

    @Nested
    class ExistingBatchFiles {
        private final Simulated dify = new Simulated("--latency", "10ms");

        /// The lines of earlier versions have other fields. A later version writes a higher format.
        @ParameterizedTest
        @CsvSource(delimiter = '|', quoteCharacter = '"', textBlock = """
                1  | 0.2.0 | 'base_url':'demo','app':'demo','server':'1.16.0','options':'mode=auto c=5 -i=d.csv'
                3  | 0.3.0 | 'base_url':'demo','app':'demo','input':'../d.csv','options':'--demo','choices':{'id_column':'id'}
                99 | 9.9   | 'server':{'url':'http://x/v1'}
                """)
        void areRejectedByEveryCommandIfTheLogHasAnotherFormat(int format, String version, String fields)
                throws IOException {
            rows(1);
            Files.writeString(file("results.jsonl"), json("{'id':'1','status':'success','inputs':{},'outputs':{}}\n"));
            Files.writeString(file("results.jsonl.log"), json("""
                    {'event':'session','t':'2026-12-02T01:05:04.788Z','format':%d,'tool':'difyexec %s',%s}
                    {'event':'attempt','t':'2026-12-02T01:05:05.411Z','id':'1','n':0,'user':'u-1','mode':'blocking'}
                    """.formatted(format, version, fields)));
            var before = contents();

            for (var words : List.of("run -i IN -o OUT", "retry -i IN -o OUT 1",
                    "status -o OUT", "status -i IN -o OUT", "export -i IN -o OUT NEW", "compare OUT OUT",
                    "verify -o OUT"))
                call(dify.settings(), words.replace("IN", input()).replace("OUT", output())
                        .replace("NEW", path("out.csv")).split(" ")).exits(2)
                        .reports(file("results.jsonl.log") + ": ", "format " + format, "difyexec " + version).hints();
            assertEquals(before, contents());
            assertEquals(0, dify.runs());
        }

        /// The lost lines may have been attempts, so the file is rejected, and nothing is changed.
        @Test
        void areRejectedIfTheLogBeginsWithZerosAfterAPowerCut() throws IOException {
            rows(1);
            Files.writeString(file("results.jsonl.log"), "\0".repeat(4096)
                    + new Given.Log().session("1.14.2").attempt("1", "u"));
            var before = contents();

            dify.run().exits(2).reports(file("results.jsonl.log") + ": ", "NUL").hints("remove", "-o");

            assertEquals(before, contents());
            assertEquals(0, dify.runs());
        }

        /// Files of the original Python tool.
        private void original() throws IOException {
            rows(5);
            Files.writeString(file("results.jsonl"), "\uFEFF" + json("""
                    {'id': '1', 'status': 'success', 'inputs': {'id': '1'}, 'outputs': {'outputs': {'answer': 'a'}}}
                    {'id': '2', 'status': 'success', 'inputs': {'id': '2'}, 'outputs': {'answer': 'old'}}
                    {'id': '2', 'status': 'success', 'inputs': {'id': '2'}, 'outputs': {'answer': 'new'}}
                    """));
            Files.writeString(file("results.jsonl.retry"), "\uFEFF5\n3\n5\n\n3\r\n");
        }

        @Test
        void aBatchWithoutALogIsResumedFromItsResults() throws IOException {
            original();
            var before = content("results.jsonl");

            dify.run().exits(0).omits("not be read");

            assertEquals(List.of("3", "4", "5"), attempts(1));
            assertTrue(content("results.jsonl").startsWith(before), "what was there stays as it was");
            assertEquals("succeeded=5", status());
        }

        @Test
        void aRetryRunsEachIdOfTheOriginalToolsRetryListOnce() throws IOException {
            original();

            dify.command("retry").exits(0);

            assertEquals(List.of("3", "5"), attempts(1));
            assertEquals("succeeded=4 pending=1", status());
        }

        /// Before, between and after the lines that a session writes.
        @ParameterizedTest
        @CsvSource({"results.jsonl, 2", "results.jsonl, 3", "results.jsonl.log, 2"})
        void theSessionStopsIfAnotherProgramAppendsHalfALine(String name, String id) throws Exception {
            rows(3);
            dify.app.listeners.add(request -> {
                if (new String(request.body()).contains("\"id\":\"" + id + "\""))
                    assertDoesNotThrow(() -> append(name, "{\"half"));
            });

            dify.run("-c", "1").exits(4).reports(file(name) + " ");

            long whole = content("results.jsonl").lines().filter(line -> line.endsWith("}")).count();
            // the result of a run in flight is written or not; if not, its run is looked up
            assertTrue(whole == Integer.parseInt(id) - 1 || name.endsWith(".log") && whole == 2, content(name));
            assertTrue(content(name).endsWith("{\"half"), content(name));
        }

        @Test
        void lostResultsAreRecoveredFromDifyWithoutNewRuns() throws IOException {
            csv("id,text", "1,text 1", "2,[latency 300ms]", "3,text 3");
            dify.run();
            var run = result("2").path("workflow_run_id").asText();
            Files.delete(file("results.jsonl"));

            dify.run().exits(0).says("3 results recovered");
            assertEquals(List.of("1", "2", "3"), ids());
            assertEquals(run, result("2").path("workflow_run_id").asText());
            assertEquals("2", result("2").path("outputs").path("row_id").asText());
            assertEquals(3, dify.runs());
            var time = dify.app.ledger().withRun(run).orElseThrow().now().orElseThrow().seconds();
            assertEquals((long) (time.doubleValue() * 1000) / 1000.0, result("2").path("seconds").asDouble(),
                    "nobody saw its end: Dify's own time");
        }

        /// PowerShell's `>` writes them so. An editor may leave out the byte order mark.
        @ParameterizedTest
        @ValueSource(strings = {"UTF-16LE", "UTF-16BE", "UTF-16"})
        void areRejectedAndLeftUnchangedIfTheyAreUtf16(String encoding) throws IOException {
            rows(3);
            dify.run();
            var text = content("results.jsonl").replaceFirst("^\uFEFF", "");
            var first = text.lines().findFirst().orElseThrow();
            for (var lines : List.of("\uFEFF" + text, "\uFEFF" + first, text, first, first + "\n")) {
                var before = lines.getBytes(encoding);
                Files.write(file("results.jsonl"), before);

                dify.run().exits(2).reports(file("results.jsonl") + ": ");

                assertArrayEquals(before, Files.readAllBytes(file("results.jsonl")));
            }
            assertEquals(3, dify.runs());
        }

        @ParameterizedTest
        @ValueSource(ints = {1, 2, 3})
        void areContinuedEvenIfTheirByteOrderMarkIsTruncated(int bytes) throws IOException {
            rows(2);
            Files.write(file("results.jsonl"), Arrays.copyOf(Lines.BOM, bytes));

            dify.run().exits(0);

            assertTrue(content("results.jsonl").startsWith("\uFEFF{"), content("results.jsonl"));
            assertEquals(List.of("1", "2"), ids());
        }

        @Test
        void areRejectedAndUnchangedIfTheyBelongToAnotherServer() throws IOException {
            rows(2);
            dify.run("--limit", "1");
            var other = new Simulated();

            other.run().exits(2).reports(dify.server.baseUrl().toString(), other.server.baseUrl().toString());

            assertEquals(0, other.runs());
            assertEquals("succeeded=1 pending=1", status());
        }

        @Test
        void areMovedAsideForAFreshStart() throws IOException {
            csv("id,text", "1,text 1", "2,[fail!]");
            dify.run();
            var before = content("results.jsonl");

            dify.run("--fresh").exits(3).says("Moved ");

            assertEquals(4, dify.runs());
            assertEquals(List.of("1"), ids());
            var aside = names().stream().filter(name -> name.matches("results.*\\.\\d{8}T.*")).toList();
            var results = aside.getFirst();
            assertEquals(List.of(results, results + ".log", results + ".retry"), aside);
            assertEquals(before, content(results));
            // also of the failed row
            call(Map.of(), "compare", "--json", path(results), output()).exits(0).shows("\"same\":1,", "\"neither\":1");
        }

        @Test
        void stayInPlaceIfAFreshStartIsRejected() throws IOException {
            rows(1);
            dify.run();
            var before = names();

            dify.run("--fresh", "-c", "0").exits(2);
            call(dify.settings("DIFY_API_KEY", ""), typed("run", "--fresh")).exits(2);

            assertEquals(before, names());
        }

        @Test
        void idsMissingFromTheCsvAreReportedByRunAndStatus() throws IOException {
            rows(2);
            assertEquals(List.of(), dify.run().notes());
            csv("id,text", "2,text 2", "a,another", "b,another");

            assertTrue(dify.run().notes().getFirst().matches("Note: 1 id .* \\(first: 1\\)\\."));
            assertEquals(4, ids().size());
            csv("id,text", "c,another");
            dify.run("--add").says("Note: 4 ids ");
            ofBatch("status").shows("  Note: 4 ids ");
        }

        /// A wrong `-i` would run, and pay for, all of another file.
        @Test
        void areRejectedWithAnotherCsvUnlessTheAddOptionIsGiven() throws IOException {
            csv("id,text", "1,text 1", "2,[fail!]", "3,text 3");
            dify.run();
            Files.writeString(file("other.csv"), "id,text\nx-1,a\nx-2,b\n");
            var before = content("results.jsonl.log");
            dify.requests.clear();
            var other = List.of("-i", path("other.csv"), "-o", output());

            for (var command : List.of("run", "retry"))
                call(dify.settings(), words(List.of(command), words(other))).exits(2).reports("other.csv: ", "3 ids")
                        .hints("--add");
            assertEquals(0, dify.requests.size());
            assertEquals(before, content("results.jsonl.log"));

            var added = call(dify.settings(), words(List.of("run", "--add", "--limit", "1"), words(other))).exits(0);

            assertEquals(List.of("1", "3", "x-1"), ids());
            assertFalse(added.next().contains("--add"), added.next());
        }

        /// Parts of the file, and another one whose rows are added. The failed rows of the file come first.
        @ParameterizedTest
        @CsvSource({"'1,text 1', run, 2 3", "'3,[fail!]', run, 3 2", "'x-1,a', run --add, 2 3"})
        void theRetryListKeepsFailedIdsMissingFromTheCsv(String row, String typed, String listed) throws IOException {
            var rows = new String[] {"id,text", "1,text 1", "2,[fail!]", "3,[fail!]"};
            csv(rows);
            dify.run();
            csv("id,text", row);

            dify.line(typed);

            assertEquals(List.of(listed.split(" ")), content("results.jsonl.retry").lines().toList());
            csv(rows);
            int runs = dify.runs();
            dify.command("retry").exits(3);
            assertEquals(runs + 2, dify.runs());
        }

        @Test
        void changedRowsAreReportedAndRunAgainOnlyOnRequest() throws IOException {
            rows(3);
            dify.run();
            csv("id,text", "1,text 1", "2,changed", "3,text 3", "4,new");

            dify.run().exits(3).says("row 2", "--rerun-changed");

            assertEquals(4, dify.runs());
            ofBatch("status").shows("  Note: 1 ", "row 2", "--rerun-changed");
            assertEquals(1, tree(ofBatch("status", "--json").out()).path("changed_in_input").asInt());
            ofBatch("export", path("out.csv")).exits(3).says("--keep-changed");

            dify.run("--rerun-changed").exits(0).omits("row 2");

            assertEquals(5, dify.runs());
            assertEquals("changed", result("2").path("inputs").path("text").asText());
            dify.run().omits("changed");
        }

        @Test
        void changedRowsThatFailKeepTheBatchUnfinished() throws IOException {
            rows(3);
            dify.run();
            replace("data.csv", "text 2", "[fail!]");

            var call = dify.run("--rerun-changed").exits(3).says("1 changed row has").omits("All rows succeeded");

            assertTrue(call.next().startsWith("run ") && call.next().contains("--rerun-changed"), call.next());
            assertEquals(call.next(), ofBatch("status").next());
        }
    }

    @Nested
    class UnrelatedFiles {
        private static final String SECRET = "app-of-somebody-else";

        private final Simulated dify = new Simulated("--latency", "10ms");

        /// Every command that writes rejects this file and changes nothing.
        private void assertRejected(String name) throws IOException {
            var before = contents();
            for (var words : List.of("run", "retry", "retry 1 --again", "run --fresh", "run --no-bom")) {
                var call = dify.line(words).exits(2).omits(SECRET);

                assertTrue(call.sentence().startsWith("difyexec: " + file(name) + ": ")
                        || call.sentence().contains("no such batch"), call.err());
                assertEquals(before, contents());
            }
        }

        @ParameterizedTest
        @ValueSource(strings = {"keep me", "id,text\n1,a\n2,b", "{\"a\":1}\n{\"a\":2}\n{\"a\":", "{\"id\":\"1\"}",
                "{\n  \"id\": \"1\",\n  \"status\": \"success\"\n}\n", "{\"id\":\"1\",\"name\":\"Bo",
                "{\"id\":\"1\",\"status\":\"open\",\"title\":\"a ticket of theirs\"}\n",
                "DIFY_API_KEY=" + SECRET + "\n", "\u0000\u0001\u0002\u007fELF", "\u00ff\u00fek\u0000e\u0000"})
        void areRejectedAndLeftUnchanged(String text) throws IOException {
            rows(2);

            for (var name : List.of("results.jsonl", "results.jsonl.log", "results.jsonl.retry")) {
                Files.writeString(file(name), text, StandardCharsets.ISO_8859_1);
                assertRejected(name);
                Files.delete(file(name));
            }

            assertEquals(0, dify.requests.size());
        }

        @ParameterizedTest
        @ValueSource(strings = {"results.jsonl", "results.jsonl.log"})
        void areRejectedIfTheyReplacedTheResultsOrTheLog(String name) throws IOException {
            csv("id,text", "1,text 1", "2,[fail!]");
            dify.run();
            int before = dify.requests.size();
            Files.writeString(file(name), "keep me");

            assertRejected(name);

            assertEquals(before, dify.requests.size());
        }

        @Test
        void areNotOverwrittenByARetryList() throws IOException {
            rows(2);
            Files.writeString(file("results.jsonl.retry"), "1\nkeep me\n");

            assertRejected("results.jsonl.retry");
            dify.run().hints();
        }

        @Test
        void areNotConfusedWithAFirstLineTornByACrash() throws IOException {
            rows(2);
            Files.writeString(file("results.jsonl"), "\uFEFF{\"id\":\"1\",\"status\":\"succ");
            Files.writeString(file("results.jsonl.log"), "{\"event\":\"session\",\"t\":\"20");

            dify.run().exits(0);

            assertEquals(List.of("1", "2"), ids());
            assertEquals(2, events("torn").size());
            assertEquals("succeeded=2", status());
            dify.run().exits(0); // the log starts with 'torn'
        }

        @ParameterizedTest
        @ValueSource(strings = {"", "\uFEFF", "\n", "\uFEFF\r\n\n"})
        void emptyFilesAreUsedForANewBatch(String text) throws IOException {
            rows(2);
            for (var name : List.of("results.jsonl", "results.jsonl.log", "results.jsonl.retry"))
                Files.writeString(file(name), text);

            dify.run().exits(0);

            assertEquals(List.of("1", "2"), ids());
        }

        @ParameterizedTest
        @ValueSource(strings = {"", ".log", ".retry", ".lock"})
        void aFolderPipeOrLinkIsRejectedAsAFileOfTheBatch(String suffix) throws Exception {
            rows(1);
            var name = "results.jsonl" + suffix;

            Files.createDirectory(file(name));
            assertRejected(name);
            Files.delete(file(name));
            link(file(name), file("none"));
            assertRejected(name);
            Files.writeString(file("none"), "");
            assertRejected(name);
            Files.delete(file(name));
            Assumptions.assumeTrue(new ProcessBuilder("mkfifo", path(name)).start().waitFor() == 0);
            assertRejected(name);

            assertEquals(0, dify.requests.size());
        }

        @ParameterizedTest
        @ValueSource(strings = {"-", "/dev/null", "/dev/stdout", "/proc/stat"})
        void aDeviceIsRejectedAsTheOutputFile(String output) throws IOException {
            Assumptions.assumeTrue(output.equals("-") || Files.exists(Path.of(output)));
            rows(1);

            for (var command : List.of("run", "retry"))
                call(dify.settings(), command, "-i", input(), "-o", output).exits(2).reports("difyexec: " + output);
            assertEquals(0, dify.requests.size());
            assertEquals(Set.of("data.csv"), names());
            assertFalse(Files.exists(Path.of("-")));
        }
    }
}
