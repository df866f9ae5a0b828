package difyexec;

import org.junit.jupiter.api.*;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.*;

import module java.base;

import static com.github.tomakehurst.wiremock.client.WireMock.*;
import static org.junit.jupiter.api.Assertions.*;

/// Which columns leave the machine, and what follows if a row is no longer as it was sent.
final class SentInputsTest extends WholeCommand {
    @Nested
    class TheColumnsThatAreSent {
        private final Dify dify = new Dify("1.16.1", "blocking");

        @BeforeEach
        void start() throws IOException {
            csv("id,text,mail", "1,hello,ann@example.com");
        }

        private void form(String declared) {
            dify.form(Stream.of(declared.split(" ")).map(name -> "{'paragraph':{'variable':'" + name + "'}}")
                    .collect(Collectors.joining(",", "[", "]")));
        }

        /// The form of a pinned version is not known.
        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, nullValues = "-", textBlock = """
                declared, options,                                            sent,         note
                text,     '',                                                 text,         not sent: "mail"
                id text,  '',                                                 id text,      not sent: "mail"
                text,     --no-check,                                         id text mail, -
                text,     --workflow-id 0123abcd-0123-0123-0123-0123456789ab, id text mail, published version: "mail"
                """)
        void areThoseOfTheFormOrAllIfItIsNotKnown(String declared, String options, String sent, String note)
                throws IOException {
            form(declared);
            dify.rows(dify.ended("succeeded", ""));
            var typed = options.isEmpty() ? new String[0] : options.split(" ");
            var columns = List.of(sent.split(" "));

            var run = dify.run(typed).exits(0);

            assertEquals(note == null ? 0 : 1, run.notes().stream().filter(text -> note == null
                    ? text.contains("mail") : text.contains(note)).count(), run::toString);
            var request = dify.server.findAll(postRequestedFor(urlPathMatching(".*/run"))).getFirst();
            assertEquals(columns, List.of(keys(tree(request.getBodyAsString()).path("inputs")).split(" ")));
            assertEquals("id text mail", keys(result("1").path("inputs")));
            assertEquals(columns, events("session").getFirst().path("columns").valueStream()
                    .map(column -> column.asText()).toList());
            var shown = dify.check(words(List.of("--show", "1"), typed)).exits(0).out();
            assertEquals(columns.contains("mail"), shown.contains("ann@example.com"), shown);
        }

        private int changed(String... csv) throws IOException {
            csv(csv);
            return tree(ofBatch("status", "--json").out()).path("changed_in_input").asInt();
        }

        /// Results of 0.5.0, which sent all columns, and results without a log are compared by all their inputs.
        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                log,     mail
                present, 0
                0.5.0,   1
                absent,  1
                """)
        void areThoseByWhichARowIsComparedWithItsResult(String log, int mail) throws IOException {
            form("text");
            dify.run().exits(0);
            if (log.equals("0.5.0")) replace("results.jsonl.log", "\"columns\":[\"text\"],", "");
            if (log.equals("absent")) Files.delete(file("results.jsonl.log"));

            assertEquals(0, changed("id,text,mail", "1,hello,ann@example.com"));
            assertEquals(0, changed("text,id,more,mail", "hello,1,new,ann@example.com"));
            assertEquals(mail, changed("id,text,mail", "1,hello,bob@example.com"));
            assertEquals(1, changed("id,text,mail", "1,goodbye,ann@example.com"));
        }

        /// A run that is found for a row as it is now gets the row's inputs, and otherwise those that Dify recorded.
        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                log,     text,    mail, changed
                present, hello,   bob,  0
                present, goodbye, ann,  1
                0.5.0,   hello,   ann,  0
                0.5.0,   hello,   bob,  1
                """)
        void areThoseByWhichARowIsComparedWithItsUnfinishedAttempt(String log, String text, String mail, int changed)
                throws IOException {
            form("text");
            dify.run().exits(0);
            Files.writeString(file("results.jsonl"), "");
            if (log.equals("0.5.0")) {
                var all = new LinkedHashMap<>(Map.of("id", "1", "text", "hello", "mail", "ann@example.com"));
                replace("results.jsonl.log", "\"columns\":[\"text\"],", "");
                replace("results.jsonl.log", events("attempt").getFirst().path("fingerprint").asText(),
                        HexFormat.of().toHexDigits(DifyExec.Fingerprint.of(all)));
            }
            dify.listed("");
            dify.server.stubFor(get(urlEqualTo("/v1/workflows/run/run-")).willReturn(dify.answer(200, Given.json("""
                    {'id':'run-','workflow_id':'w','status':'succeeded','inputs':'{\\"text\\":\\"hello\\"}',\
                    'outputs':{},'error':null,'elapsed_time':2.5,'total_tokens':3,'total_steps':3}"""))));
            csv("id,text,mail", "1," + text + "," + mail + "@example.com");

            dify.run().exits(0);

            assertEquals(1, dify.runs());
            assertEquals("hello", result("1").at("/inputs/text").asText());
            assertEquals(changed == 0 ? mail + "@example.com" : "", result("1").at("/inputs/mail").asText());
            assertEquals(changed, tree(ofBatch("status", "--json").out()).path("changed_in_input").asInt());
        }
    }
}
