package difyexec;

import org.junit.jupiter.api.*;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

import module java.base;

import static difyexec.Given.tree;
import static java.nio.charset.StandardCharsets.UTF_8;
import static org.junit.jupiter.api.Assertions.*;

/// Forty files as other programs export them. What `check` suggests for them follows from facts, so that nobody pastes
/// a command that sends a time stamp or a URL as the question.
final class ExportsTest extends WholeCommand {
    private final Simulated dify = new Simulated();

    ExportsTest() throws IOException {
        dify.form("""
                [{'paragraph':{'variable':'q','label':'Frage','required':true}},
                 {'select':{'variable':'kategorie','label':'Kategorie','options':['Lieferung','Rechnung','Technik']}},
                 {'number':{'variable':'betrag','label':'Betrag'}},
                 {'text-input':{'variable':'datum','label':'Datum'}}]""");
    }

    /// @param options the options that `check` suggests
    /// @param column  the column that the user chooses for `q`, if the options contain `COLUMN`; if empty, the file
    ///                has none, so the command is only pasted as it is
    /// @param sent    values of variables that reach the model, such as `q: a / b; kategorie: Technik / Rechnung`;
    ///                empty if nothing may be sent
    record Export(String name, byte[] bytes, String options, String column, String sent) {
        @Override
        public String toString() {
            return name;
        }
    }

    /// Each file has a line with its name, what differs from UTF-8 with LF, the options, the column, and what is sent.
    /// `→` is a tab.
    private static final String FILES = """
            # 01 Google Forms.csv | CR LF | --id-column '#' --map COLUMN=q | Was ist Ihre Frage? \
            | q: Wo ist es? Es fehlt. / Was ist das?; kategorie: Lieferung / Technik
            "Zeitstempel","E-Mail-Adresse","Was ist Ihre Frage?","Kategorie","Tempo","Freundlichkeit"
            "2026/11/01 10:00:00 AM MEZ","a@example.org","Wo ist es?
            Es fehlt.","Lieferung","4","5"
            "2026/11/01 10:05:00 AM MEZ","b@example.org","Was ist das?","Technik","2","5"
            # 02 Typeform.csv | BOM | --id-column '#' --map COLUMN=q | What is your question? \
            | q: Where? / When?; kategorie: Lieferung / Technik
            #,What is your question?,Kategorie,How likely?,Response Type,Start Date (UTC),Network ID,Tags
            a1x9,Where?,Lieferung,9,completed,2026-11-01 10:00:00,0ff1,
            a2x9,When?,Technik,3,completed,2026-11-01 10:05:00,0ff2,
            # 03 Qualtrics.csv | BOM | --id-column '#' --map COLUMN=q --skip-rows 2 | Q1 | q: Wo? / Wann?
            StartDate,ResponseId,Q1,kategorie,Q3_1
            Start Date,Response ID,"Was ist
            Ihre Frage?",Kategorie,Tempo
            "{""ImportId"":""startDate""}","{""ImportId"":""_recordId""}","{""ImportId"":""QID1""}",\
            "{""ImportId"":""QID2""}","{""ImportId"":""QID3""}"
            2026-11-01 10:00:00,R_1a,Wo?,Lieferung,4
            2026-11-01 10:05:00,R_2b,Wann?,Technik,5
            # 04 HubSpot.csv | | --id-column 'Ticket ID' --map COLUMN=q --map Category=kategorie | Ticket name \
            | q: Paket fehlt / Rechnung falsch; kategorie: Lieferung / Rechnung
            Ticket ID,Ticket name,Ticket description,Category,Create date,Amount in company currency
            1001,Paket fehlt,Seit drei Wochen.,Lieferung,2026-11-01 10:00,12.5
            1002,Rechnung falsch,,Rechnung,2026-11-01 10:05,
            # 05 Salesforce.csv | | --map COLUMN=q | SUBJECT | q: Paket fehlt / Rechnung falsch
            "ID","CASENUMBER","SUBJECT","DESCRIPTION","TYPE"
            "5003000000D8cuIAAR","00001001","Paket fehlt","Seit drei Wochen.","Problem"
            "5003000000D8cuiAAR","00001002","Rechnung falsch","","Question"
            # 06 Jira.csv | | --id-column 'Issue key' --map COLUMN=q | Summary | q: Login geht nicht / Druck geht nicht
            Summary,Issue key,Issue id,Status,Labels,Labels,Description,Comment,Comment
            Login geht nicht,APP-1,10001,Open,web,login,Seit heute.,01/Nov/26;a;Ich auch,
            Druck geht nicht,APP-2,10002,Done,,,Seit gestern.,,
            # 07 gh issue list.json | | --id-column number --map COLUMN=q | body | q: It crashes. / It hangs.
            [{"author":{"login":"a"},"body":"It crashes.","createdAt":"2026-11-01T10:00:00Z",
              "labels":[{"id":"LA_1","name":"bug","description":"Something is not working"}],"number":11,"title":"Crash"},
             {"author":{"login":"b"},"body":"It hangs.","createdAt":"2026-11-01T10:05:00Z","labels":[],"number":12,
              "title":"Hang"}]
            # 08 Shopify.csv | | --map COLUMN=q --id-column '#' | Notes |
            Name,Email,Financial Status,Total,Lineitem quantity,Lineitem name,Notes,Id,Kategorie
            #1001,a@example.org,paid,12.50,1,Lampe,Bitte schnell,5001,Lieferung
            #1001,a@example.org,,,2,Birne,,,
            #1002,b@example.org,paid,7.00,1,Kabel,Als Geschenk,5002,Rechnung
            # 09 Stripe.csv | | --map COLUMN=q | frage (metadata) | q: Warum? / Wofür?
            id,Description,Created date (UTC),Amount,Amount Refunded,Currency,frage (metadata)
            ch_1A,Invoice 1,2026-11-01 10:00,"1,234.50",0.00,eur,Warum?
            ch_2B,Invoice 2,2026-11-01 10:05,"12,50",0.00,eur,Wofür?
            # 10 Zendesk.jsonl | | --map COLUMN=q | description | q: It is lost. / It is broken.
            {"url":"https://example.org/api/v2/tickets/1.json","id":1,"subject":"Lost","description":"It is lost.",\
            "tags":["a"],"via":{"channel":"web"},"custom_fields":[{"id":360001,"value":null}]}
            {"url":"https://example.org/api/v2/tickets/2.json","id":2,"subject":"Broken","description":"It is broken.",\
            "tags":[],"via":{"channel":"mail"},"custom_fields":[]}
            # 10b Zendesk.json | | --rows /tickets --map COLUMN=q | description | q: It is lost. / It is broken.
            {"tickets":[{"id":1,"subject":"Lost","description":"It is lost.","priority":null},
            {"id":2,"subject":"Broken","description":"It is broken.","priority":"high"}],"next_page":null,"count":2}
            # 11 Notion.csv | BOM | --id-column '#' | | q: Wo ist es? / Was ist es?; kategorie: Lieferung / Technik
            Name,Frage,Kategorie,Erstellt,Person
            Paket,Wo ist es?,Lieferung,"1. November 2026 10:00",Ann
            ,Was ist es?,Technik,"1. November 2026 10:05",Ben
            # 12 Airtable.csv | BOM | --id-column Autonumber --decimal . | | q: Wo ist es? / Was ist es?; betrag: 1250.0 / 3
            Ticket,Autonumber,Frage,Kategorie,Betrag,Assignee,Attachments
            Paket,1,Wo ist es?,Lieferung,"$1,250.00",Ann,a.png (https://example.org/a.png)
            Gerät,2,Was ist es?,Technik,3,,
            # 13 SAP.txt | windows-1252 | --encoding windows-1252 --id-column '#' --map COLUMN=q | |
            Offene Belege für Müller
            ----------------------------------------------
            |Belegnr   |Frage      |Kategorie |Betrag    |
            ----------------------------------------------
            |1900000001|Wo ist es? |Lieferung | 1.234,50-|
            |1900000002|Was ist es?|Technik   |     3,00 |
            ----------------------------------------------
            # 14 DATEV.csv | windows-1252 | --id-column '#' --map COLUMN=q | |
            "EXTF";700;21;"Buchungsstapel";12;20261101101500000;;;;;
            Umsatz;Soll/Haben-Kennzeichen;Konto;Belegdatum;Belegfeld 1;Buchungstext
            12,50;S;1200;0111;R-1;Miete November
            3,00;H;1200;0211;R-2;Erstattung
            # 15 Apple Numbers.csv | | --id-column Nr --decimal , | | q: Wo ist es? / Was ist es?; betrag: 1000.0 / 12.5
            Nr;Frage;Kategorie;Betrag;Datum
            1;Wo ist es?;Lieferung;1.000,00 €;01.11.2026
            2;Was ist es?;Technik;12,50 €;02.11.2026
            # 16 LibreOffice.csv | | --decimal , | | q: Wo ist es? / Was ist es?; betrag: 12.5 / 3.0; datum: 01.11.26 / 02.11.26
            "id","Frage","Kategorie","Betrag","Datum"
            1,"Wo ist es?","Lieferung","12,50 €",01.11.26
            2,"Was ist es?","Technik","3,00 €",02.11.26
            # 17 pandas.csv | | --id-column ticket_id --map COLUMN=q --map category=kategorie | question \
            | q: Wo ist es? / Was ist es?; kategorie: Lieferung / Technik
            ,ticket_id,question,category,amount,date,done
            0,T-1,Wo ist es?,Lieferung,12.5,2026-11-01,True
            1,T-2,Was ist es?,Technik,,2026-11-02,False
            # 17b pandas.json | | | |
            {"id":{"0":1,"1":2},"q":{"0":"Wo ist es?","1":"Was ist es?"},"kategorie":{"0":"Lieferung","1":"Technik"}}
            # 17c pandas split.json | | --id-column '#' --map COLUMN=q | |
            {"columns":["id","q"],"index":[0,1],"data":[[1,"Wo ist es?"],[2,"Was ist es?"]]}
            # 18 R.csv | | --id-column '#' --null NA | | q: Wo ist es? / Was ist es?; betrag: 12.5
            "","Frage","Kategorie","Betrag"
            "1","Wo ist es?","Lieferung",12.5
            "2","Was ist es?","Technik",NA
            # 18b R csv2.csv | | --id-column '#' --decimal , --null NA | | q: Wo ist es? / Was ist es?; betrag: 12.5
            "";"Frage";"Kategorie";"Betrag"
            "1";"Wo ist es?";"Lieferung";12,5
            "2";"Was ist es?";"Technik";NA
            # 18c R table.txt | | | |
            "Frage" "Kategorie" "Betrag"
            "1" "Wo ist es?" "Lieferung" 12.5
            "2" "Was ist es?" "Technik" 1e-04
            # 19 SQL Server.csv | BOM | --null NULL | | q: Wo ist es? / Was ist es?; betrag: 12.5
            id,Frage,Kategorie,Betrag,Datum
            1,Wo ist es?,Lieferung,12.50,2026-11-01 10:00:00.000
            2,Was ist es?,Technik,NULL,NULL
            # 19b sqlcmd.csv | | | |
            id,Frage,Kategorie
            --,-----,---------
            1,Wo ist es?,Lieferung
            2,Was ist es?,Technik

            (2 rows affected)
            # 20 MySQL outfile.txt | | --id-column '#' --map COLUMN=q | |
            1→Wo ist es?→Lieferung→12.50
            2→Was ist\\
            es?→Technik→\\N
            3→Warum?→Rechnung→3.00
            # 20b mysql -B.txt | | --null NULL | | q: Wo\\nist es? / Was ist es?; betrag: 12.5
            id→Frage→Kategorie→Betrag
            1→Wo\\nist es?→Lieferung→12.50
            2→Was ist es?→Technik→NULL
            # 21 PostgreSQL.csv | | | | q: Wo ist es? / Was ist es?; betrag: 12.5; datum: 2026-11-01 10:00:00+01 /
            id,q,kategorie,betrag,datum
            1,Wo ist es?,Lieferung,12.50,2026-11-01 10:00:00+01
            2,Was ist es?,Technik,,
            # 21b PostgreSQL.txt | | --id-column '#' --map COLUMN=q | |
            1→Wo\\tist es?→Lieferung→12.50→2026-11-01
            2→Was ist es?→Technik→\\N→\\N
            # 22 BigQuery.json | | | | q: Wo ist es? / Was ist es?; betrag: 12.5; kategorie: Lieferung
            {"id":"1","q":"Wo ist es?","kategorie":"Lieferung","betrag":"12.5","datum":"2026-11-01"}
            {"id":"2","q":"Was ist es?","items":[{"sku":"a"}]}
            # 22b BigQuery.json.gz | gzip | | |
            {"id":"1","q":"Wo ist es?"}
            # 23 Power BI.csv | BOM | --id-column Ticketnummer | | q: Wo ist es? / Was ist es?; kategorie: Lieferung / Technik
            Ticketnummer,Frage,Kategorie,Summe von Betrag
            T-1,Wo ist es?,Lieferung,12.5
            T-2,Was ist es?,Technik,3
            # 23b Power BI.xlsx | workbook | --id-column Ticketnummer | |
            s:Ticketnummer|s:Frage|s:Kategorie|s:Summe von Betrag
            s:T-1|s:Wo ist es?|s:Lieferung|n:12.5
            s:T-2|s:Was ist es?|s:Technik|n:3

            s:Angewendete Filter: Jahr ist 2026
            # 24 SPSS.csv | BOM | --id-column CASEID | | q: Wo ist es? / Was ist es?; kategorie: Lieferung; datum: 01-NOV-2026 /
            CASEID;q;kategorie;betrag;datum
            1;Wo ist es?;Lieferung;12.5;01-NOV-2026
            2;Was ist es?; ; ; 
            # 25 Amazon reviews.tsv | | --id-column '#' --map COLUMN=q --quote none | review_body | q: "Love" it / Broke
            marketplace→customer_id→review_id→product_title→star_rating→review_headline→review_body→review_date
            US→41409413→RJOVP07→Lamp→5→Great→"Love" it→2015-08-31
            US→49668221→R7EO060→5" pipe→1→Bad→Broke→2015-08-31
            # 26 sep line.csv | BOM | | | q: Wo ist es? / Was ist es?; kategorie: Lieferung / Technik
            sep=;
            id;Frage;Kategorie
            1;Wo ist es?;Lieferung
            2;Was ist es?;Technik
            # 27 Unicode text.txt | UTF-16LE | --decimal , | | q: Wo "ist" es? / Was ist es?; betrag: 1234.5 / 3
            id→Frage→Kategorie→Betrag
            1→"Wo ""ist"" es?"→Lieferung→1.234,50 €
            2→Was ist es?→Technik→3
            # 28 help desk.csv | | --id-column conversation_id | | q: <p>Wo ist es?</p> / <b>Was</b> ist es?
            conversation_id,Frage,Kategorie
            901,<p>Wo ist es?</p>,Lieferung
            902,<b>Was</b> ist es?,Technik
            # 29 table.md | | --id-column '#' --map COLUMN=q | |
            | id | Frage | Kategorie |
            |----|-------|-----------|
            | 1 | Wo ist es? | Lieferung |
            # 30 Microsoft Forms.xlsx | workbook | --map COLUMN=q | Was ist Ihre Frage? | q: Wo ist es? / Was ist es?
            s:ID|s:Start time|s:Completion time|s:Email|s:Name|s:Was ist Ihre Frage?|s:Kategorie
            n:1|n3:46327.4|n3:46327.41|s:anonymous|s:Ann|s:Wo ist es?|s:Lieferung
            n:2|n3:46327.5|n3:46327.51|s:anonymous|s:Ben|s:Was ist es?|s:Technik
            # 31 SurveyMonkey.csv | BOM | --id-column '#' --map COLUMN=q --skip-rows 1 | Was ist Ihre Frage? \
            | q: Wo ist es? / Was ist es? / Warum?; kategorie: Lieferung / Technik / Technik
            Respondent ID,Collector ID,Start Date,IP Address,Was ist Ihre Frage?,Kategorie
            ,,,,Open-Ended Response,Response
            118001,4001,11/01/2026 10:00:00,,Wo ist es?,Lieferung
            118002,4001,11/01/2026 10:05:00,,Was ist es?,Technik
            118003,4001,11/01/2026 10:06:00,,Warum?,Technik
            # 32 Airtable.json | | --rows /records --map COLUMN=q | |
            {"records":[{"id":"rec1","createdTime":"2026-11-01","fields":{"Frage":"Wo ist es?","Kategorie":"Lieferung"}},
            {"id":"rec2","createdTime":"2026-11-01","fields":{"Frage":"Was ist es?"}}],"offset":"a"}
            """;

    static Stream<Export> exports() {
        return Stream.of(FILES.split("(?m)^# (?=\\d\\d)")).skip(1).map(ExportsTest::export);
    }

    private static Export export(String text) {
        var parts = text.split("\n", 2);
        var fields = Stream.of(parts[0].split("\\|", -1)).map(String::strip).toList();
        try {
            return new Export(fields.get(0), bytes(parts[1].replace('→', '\t'), fields.get(1)), fields.get(2), fields.get(3),
                    fields.get(4));
        } catch (IOException problem) {
            throw new UncheckedIOException(problem);
        }
    }

    private static byte[] bytes(String content, String form) throws IOException {
        return switch (form) {
            case "" -> content.getBytes(UTF_8);
            case "BOM" -> ("\uFEFF" + content).getBytes(UTF_8);
            case "CR LF" -> content.replace("\n", "\r\n").getBytes(UTF_8);
            case "workbook" -> FormatsTest.book(content.split("\n"));
            case "gzip" -> {
                var bytes = new ByteArrayOutputStream();
                try (var zip = new GZIPOutputStream(bytes)) {
                    zip.write(content.getBytes(UTF_8));
                }
                yield bytes.toByteArray();
            }
            default -> ((form.startsWith("UTF-16") ? "\uFEFF" : "") + content).getBytes(form);
        };
    }

    @Nested
    class ACheckOfAnExport {
        static Stream<Export> exports() {
            return ExportsTest.exports();
        }

        @ParameterizedTest(name = "{0}")
        @MethodSource("exports")
        void suggestsOnlyWhatFollowsFromTheFile(Export export) throws IOException {
            var file = Files.write(file(export.name()), export.bytes()).toString();
            var check = call(dify.settings(), "check", "-i", file);
            var shown = Pattern.compile("(Next|To continue, .*): difyexec check -i (?:'[^']*'|\\S+) ?(.*)").matcher(check.out());

            assertEquals(export.options(), shown.find() ? shown.group(2) : "", check::toString);
            boolean mustChoose = export.options().contains("COLUMN");
            if (mustChoose) {
                assertNotEquals("Next", shown.group(1));
                pasted(file, export.options()).exits(2);
            }
            if (mustChoose && export.column().isEmpty()) return;

            var last = pasted(file, export.options().replace("COLUMN", "'" + export.column() + "'"));

            last.exits(export.sent().isEmpty() ? 2 : 0);
            for (var values : export.sent().split("; ")) assertEquals(values, sent(last, values.split(":")[0]));
        }

        /// Runs the command that was pasted.
        private Call pasted(String file, String options) throws IOException {
            var shell = new ProcessBuilder("sh", "-c", "printf '%s\\n' " + options).start();
            var words = new String(shell.getInputStream().readAllBytes(), UTF_8).lines().filter(word -> !word.isEmpty());
            return call(dify.settings(), words(List.of("check", "-i", file, "--show", "9"),
                    words.toArray(String[]::new)));
        }

        /// Returns what would reach the model as this variable.
        private static String sent(Call check, String variable) throws IOException {
            var values = new ArrayList<String>();
            for (var line : check.out().lines().filter(line -> line.startsWith("{")).toList()) {
                var value = tree(line).path("inputs").path(variable);
                if (!value.isMissingNode()) values.add(value.asText().replaceAll("\\s+", " "));
            }
            return variable.isEmpty() ? "" : variable + ": " + String.join(" / ", values).strip();
        }
    }
}
